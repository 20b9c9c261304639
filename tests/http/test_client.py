"""The client's side: keys of jobs, and how they get on requests; a real server that fails at times."""

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import requests
import stamina
import tenacity
from urllib3.util.retry import Retry

import idemstore
from idemstore.errors import ConfigurationError, InvalidInput, OperationInFlight, UndecodableResult
from idemstore.http.client import (
    AsyncStoredKeys,
    KeyHeader,
    StoredKeys,
    current_key,
    derived_key,
    job_key,
    new_key,
    sending,
)
from idemstore.http.httpx import AsyncIdempotencyTransport, IdempotencyAuth, IdempotencyTransport
from idemstore.http.keyformat import KeyFormat, Quoting
from idemstore.http.requests import IdempotencyAdapter
from idemstore.http.requests import IdempotencyAuth as RequestsAuth


class Service:
    """A server that notes the keys it sees, and fails as told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None, str | None]] = []
        self.failures = 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Note, and answer."""
                self.rfile.read(int(self.headers.get("content-length") or 0))
                service.seen.append((self.command, self.headers["idempotency-key"], self.headers["authorization"]))
                service.failures -= 1
                self.send_response(503 if service.failures >= 0 else 201)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/orders"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def keys(self) -> list[str | None]:
        """What keys it saw."""
        return [key for _, key, _ in self.seen]


@pytest.fixture
def service() -> Iterator[Service]:
    """The server."""
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


# -- keys of jobs ----------------------------------------------------------------------------------------------------


def test_new_keys_differ():
    """Each is a UUID."""
    assert new_key() != new_key()
    assert uuid.UUID(new_key())


def test_derived_keys_are_the_same_again():
    """And differ where any part does, however they are cut."""
    assert derived_key("shop", "j-1") == derived_key("shop", "j-1")
    found = {derived_key(*parts) for parts in (("shop", "j-1"), ("shopj", "-1"), ("shop", "j-1", "x"), ("shop", "ü"))}
    assert len(found) == 4
    assert all(uuid.UUID(key) for key in found)
    for bad in ((), ("",), ("a", 1)):
        with pytest.raises(InvalidInput):
            derived_key(*bad)


def test_job_keys_are_saved_before_they_are_used():
    """Once; another step has another key; a job that could not be saved has none that was used."""
    saved: list[dict[str, str]] = []
    job = {"id": "j-1"}
    key = job_key(job, "charge", lambda: saved.append(dict(job)))
    assert saved == [{"id": "j-1", "charge": key}]
    assert job_key(json.loads(json.dumps(job)), "charge", pytest.fail) == key
    assert job_key(job, "mail", lambda: saved.append(dict(job))) != key


def test_stored_keys_are_the_same_for_all_workers():
    """Twenty at once, two stores, both modes."""
    name = f"memory://{uuid.uuid4().hex}"
    with idemstore.open(name) as one, idemstore.open(name) as two:
        workers = [StoredKeys(one), StoredKeys(two)]
        with ThreadPoolExecutor(20) as pool:
            keys = set(pool.map(lambda n: workers[n % 2].key("j-1", "charge"), range(20)))
        assert len(keys) == 1
        assert workers[0].key("j-2", "charge") not in keys

        async def other() -> str:
            async with idemstore.open_async(name) as store:
                return await AsyncStoredKeys(store).key("j-1", "charge")

        assert {asyncio.run(other())} == keys
        with pytest.raises(InvalidInput):
            workers[0].key()


def test_a_crash_while_a_key_is_made_is_taken_over():
    """The key that was never handed out is not missed."""
    store = idemstore.open("memory://")
    store.claim(("client", "j-1"), lease=0.05)
    key = StoredKeys(store).key("j-1")
    assert StoredKeys(store).key("j-1") == key


def test_a_foreign_record_is_no_key():
    """An error, rather than something sent."""
    store = idemstore.open("memory://")
    claim = store.claim(("client", "j-1"))
    assert isinstance(claim, idemstore.Claimed)
    store.fail(("client", "j-1"), claim.token, b"x")
    with pytest.raises(UndecodableResult):
        StoredKeys(store).key("j-1")


def test_a_worker_that_stands_still_is_reported(monkeypatch: pytest.MonkeyPatch):
    """Rather than waited for without end."""
    keys = StoredKeys(idemstore.open("memory://"))
    monkeypatch.setattr(keys.store, "claim", lambda *args, **more: idemstore.InFlight(5))
    with pytest.raises(OperationInFlight):
        keys.key("j-1")


# -- headers ---------------------------------------------------------------------------------------------------------


def test_headers():
    """Quoted or not, as our own server reads it; only of these methods; one that is there stays."""
    for key in ("k", 'a"b\\c'):
        text = KeyHeader(quoted=True).text(key)
        assert KeyFormat(quoting=Quoting.REQUIRED).read([text]) == key
    headers: dict[str, str] = {}
    KeyHeader().put(headers, "GET", "k")
    KeyHeader().put(headers, "POST", None)
    assert headers == {}
    KeyHeader(name="X-Key").put(headers, "post", "k")
    KeyHeader(name="X-Key").put(headers, "POST", "other")
    assert headers == {"X-Key": "k"}
    for bad in ("", " k", "k\n", "ü"):
        with pytest.raises(InvalidInput):
            KeyHeader().text(bad)


def test_a_key_can_be_required():
    """A request outside of ``sending`` is a mistake to hear of."""
    with pytest.raises(ConfigurationError, match=r"with sending\(key\)"):
        KeyHeader(required=True).put({}, "POST", None)


def test_sending_nests():
    """The innermost counts; afterwards there is none."""
    with sending("a"):
        with sending("b"):
            assert current_key() == "b"
        assert current_key() == "a"
    assert current_key() is None


# -- httpx and requests ----------------------------------------------------------------------------------------------


def test_httpx_auth(service: Service):
    """Sync and async, and beside the auth that was there."""
    with httpx.Client() as client:
        client.post(service.url, auth=IdempotencyAuth("k-1", inner=httpx.BasicAuth("a", "b")))
        client.get(service.url, auth=IdempotencyAuth("k-1"))

    async def other() -> None:
        async with httpx.AsyncClient() as client:
            await client.post(service.url, auth=IdempotencyAuth("k-2", KeyHeader(quoted=True)))

    asyncio.run(other())
    assert service.keys == ["k-1", None, '"k-2"']
    assert (service.seen[0][2] or "").startswith("Basic ")
    with pytest.raises(InvalidInput):
        IdempotencyAuth("\n")


def test_httpx_transport_under_tenacity(service: Service):
    """Every attempt of the loop sends the same key; the next operation another one."""
    service.failures = 2

    @tenacity.retry(stop=tenacity.stop_after_attempt(5), wait=tenacity.wait_none())
    def send(client: httpx.Client) -> None:
        client.post(service.url, json={}).raise_for_status()

    with httpx.Client(transport=IdempotencyTransport(header=KeyHeader(required=True))) as client:
        for job in ("j-1", "j-2"):
            with sending(derived_key("shop", job)):
                send(client)
        client.post(service.url, extensions={"idempotency_key": "by extension"})
        client.get(service.url)
        with pytest.raises(ConfigurationError):
            client.post(service.url)
    first, second = derived_key("shop", "j-1"), derived_key("shop", "j-2")
    assert service.keys == [first, first, first, second, "by extension", None]


def test_async_httpx_transport_under_stamina(service: Service):
    """The same; tasks do not see each other's key."""
    service.failures = 1

    @stamina.retry(on=httpx.HTTPStatusError, attempts=3, wait_initial=0, wait_max=0, wait_jitter=0)
    async def send(client: httpx.AsyncClient) -> None:
        (await client.post(service.url, json={})).raise_for_status()

    async def operation(client: httpx.AsyncClient, key: str) -> None:
        with sending(key):
            await send(client)

    async def main() -> None:
        async with httpx.AsyncClient(transport=AsyncIdempotencyTransport()) as client:
            await asyncio.gather(operation(client, "k-1"), operation(client, "k-2"))

    asyncio.run(main())
    assert set(service.keys) == {"k-1", "k-2"}
    assert len(service.keys) == 3


def test_requests_adapter(service: Service):
    """urllib3's own retries send the same key."""
    service.failures = 2
    with requests.Session() as session:
        retry = Retry(3, allowed_methods=None, status_forcelist=[503], backoff_factor=0)
        session.mount("http://", IdempotencyAdapter(max_retries=retry))
        with sending("k-1"):
            assert session.post(service.url, json={}).status_code == 201
        session.post(service.url)
    assert service.keys == ["k-1", "k-1", "k-1", None]


def test_requests_auth(service: Service):
    """Beside the auth that was there."""
    requests.post(service.url, auth=RequestsAuth("k-1", inner=requests.auth.HTTPBasicAuth("a", "b")), timeout=5)
    assert service.keys == ["k-1"]
    assert (service.seen[0][2] or "").startswith("Basic ")
