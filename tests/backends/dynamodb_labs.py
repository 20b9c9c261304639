"""Set-up that the tests of the DynamoDB family share: one server, a table for each module, a store in each mode.

A module takes the fixtures that it needs by assigning them to names of its own: ``lab = dynamodb_labs.lab``.
"""

import pytest

from idemstore.testing.contract_lab import MODES, Lab
from idemstore.testing.families.dynamodb import TIMEOUT, DynamoDBSubject
from idemstore.testing.proxy import Proxy
from idemstore.url import parse_url


@pytest.fixture(scope="module")
def server(server_pool):
    """One DynamoDB Local."""
    return server_pool.get("dynamodb")


@pytest.fixture(scope="module")
def subject(server):
    """A table on it."""
    made = DynamoDBSubject("dynamodb", server.url)
    yield made
    made.close()


@pytest.fixture(params=MODES)
def lab(request, subject):
    """A store in each mode."""
    with Lab(subject, request.param) as made:
        yield made


@pytest.fixture
def fresh(server):
    """A table that nobody else uses."""
    made = DynamoDBSubject("dynamodb", server.url)
    yield made
    made.close()


@pytest.fixture
def proxy(subject):
    """The way to the server."""
    host = parse_url(subject.url).hosts[0]
    with Proxy(host.name, host.port) as made:
        yield made


def altered(lab, *options):
    """The URL of the lab's subject with other options; a time-out among them replaces the subject's."""
    url = lab.subject.url
    if any(option.startswith("timeout=") for option in options):
        url = url.replace(f"&{TIMEOUT}", "")
    return "&".join((url, *options))


def with_options(lab, *options):
    """A store of the lab's mode with other options."""
    return lab.open(altered(lab, *options))


def behind(lab, proxy, *options):
    """A store that reaches the server through the proxy, and has done so."""
    host = parse_url(lab.subject.url).hosts[0]
    store = lab.open(altered(lab, *options).replace(f":{host.port}/", f":{proxy.port}/"))
    store.ping()
    return store
