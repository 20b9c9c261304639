"""DynamoDB when things go wrong: lost replies under botocore's own retries, silence, refusals, bad credentials."""

import asyncio
import logging
import os
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from email.utils import formatdate
from functools import partial

import dynamodb_labs
import pytest
from dynamodb_labs import altered, behind, with_options

import idemstore
from idemstore import errors
from idemstore.backends.dynamodb import aio, sync
from idemstore.backends.dynamodb.clock import ServerClock
from idemstore.backends.dynamodb.dialect import DynamoDBDialect, probe
from idemstore.backends.dynamodb.settings import read_settings
from idemstore.errors import StoreMisbehaved, StoreTimeout, StoreUnavailable
from idemstore.machine import Claim
from idemstore.outcomes import Claimed, Completed, Done, InFlight
from idemstore.testing.blocking import LoopThread
from idemstore.testing.contract_lab import MODES, claimed, done, raises
from idemstore.testing.contract_resend import SETTLE
from idemstore.testing.servers import tls
from idemstore.testing.servers.process import free_port
from idemstore.url import parse_url

SLACK = 4.0
"""Seconds that a busy machine may add to a time-out."""

server, subject, lab, proxy = dynamodb_labs.server, dynamodb_labs.subject, dynamodb_labs.lab, dynamodb_labs.proxy

# -- lost replies: botocore sends again by itself --------------------------------------------------------------------


def test_claim_whose_reply_is_lost(lab, proxy):
    """Applied twice, by botocore's own retry: one claim, attempt 1, held by its caller."""
    store, key = behind(lab, proxy), lab.key()
    dropped = proxy.drop_reply(b"UpdateItem")
    claim = claimed(store.claim(key))
    assert dropped.is_set()
    assert claim.attempt == 1
    record = lab.store.get(key).record
    assert (record.token, record.fence, record.attempt) == (claim.token, claim.fence, 1)


def test_takeover_whose_reply_is_lost(lab, proxy):
    """The second write of a takeover, sent twice, is one attempt with the checkpoint."""
    store, key = behind(lab, proxy), lab.key()
    first = claimed(lab.store.claim(key))
    done(lab.store.renew(key, first.token, checkpoint=b"half"))
    lab.age(key, 100)
    dropped = proxy.drop_reply(b"seen_fence")
    taken = claimed(store.claim(key))
    assert dropped.is_set()
    assert (taken.attempt, taken.checkpoint) == (2, b"half")
    assert lab.store.get(key).record.fence == taken.fence


@pytest.mark.parametrize("name", SETTLE)
def test_settlement_whose_reply_is_lost(lab, proxy, name):
    """Nobody is told LeaseLost about its own completion, failure, renewal or release."""
    store, key = behind(lab, proxy), lab.key()
    claimed(lab.store.claim(key, token="owner"))
    dropped = proxy.drop_reply(b"UpdateItem")
    assert SETTLE[name](store, key) == Done()
    assert dropped.is_set()


def test_divided_result_whose_replies_are_lost(lab, proxy):
    """Neither a lost reply to the parts nor one to the completion, nor to the reads of a replay, changes the result."""
    store, key = behind(lab, proxy), lab.key()
    result = os.urandom(1_000_000)
    token = claimed(store.claim(key)).token
    drops = [proxy.drop_reply(b"BatchWriteItem"), proxy.drop_reply(b"UpdateItem")]
    done(store.complete(key, token, result))
    assert all(dropped.is_set() for dropped in drops)
    drops = [proxy.drop_reply(b"UpdateItem"), proxy.drop_reply(b"BatchGetItem")]
    assert store.claim(key) == Completed(result)
    assert all(dropped.is_set() for dropped in drops)


def test_batch_whose_replies_are_lost(lab, proxy):
    """Items of a batch are sent again one by one."""
    store = behind(lab, proxy)
    keys = [lab.key() for _ in range(20)]
    drops = [proxy.drop_reply(b"UpdateItem") for _ in range(3)]
    claims = store.claim_many(keys)
    assert all(isinstance(answer, Claimed) and answer.attempt == 1 for answer in claims)
    assert all(dropped.is_set() for dropped in drops)


def test_reply_that_never_comes(lab, proxy):
    """A stalled connection costs half of the time; the other half is enough to ask again."""
    store, key = behind(lab, proxy, "timeout=4"), lab.key()
    proxy.stall()
    claim = lab.background(partial(store.claim, key))
    time.sleep(0.5)
    assert claim.running()
    proxy.resume()
    assert claimed(claim.result()).attempt == 1


def test_every_connection_is_cut(lab, proxy):
    """Idle connections that the server closed are replaced without an error."""
    store = behind(lab, proxy)
    for _ in range(3):
        proxy.cut()
        claimed(store.claim(lab.key()))


# -- silence and refusal: every call keeps its time ------------------------------------------------------------------


def within(seconds, call, *kinds):
    """The call raises one of the errors within the time."""
    began = time.monotonic()
    with pytest.raises(kinds) as caught:
        call()
    took = time.monotonic() - began
    assert took < seconds + SLACK, f"it took {took:.1f} s"
    assert type(caught.value) in kinds
    assert caught.value.retryable
    return took


@pytest.mark.parametrize("timeout", [0.3, 1.0])
def test_frozen_server(lab, server, timeout):
    """A server that is stopped (SIGSTOP) while connections are open: StoreTimeout, in time; then all is well again."""
    store = with_options(lab, f"timeout={timeout}")
    key = lab.key()
    lab.store.ping()
    server.pause()
    try:
        for call in (partial(store.claim, key), store.ping, partial(store.complete, key, "t", b"r")):
            within(timeout, call, StoreTimeout)
        answers = []
        batch = partial(lambda: answers.extend(store.claim_many([lab.key() for _ in range(40)])))
        began = time.monotonic()
        batch()
        assert time.monotonic() - began < timeout + SLACK
        assert {type(answer) for answer in answers} == {StoreTimeout}
    finally:
        server.resume()
    claimed(lab.store.claim(key, token="mine"))


def test_nobody_listens(lab):
    """A port without a server: StoreUnavailable, soon, from every operation."""
    url = f"dynamodb+http://a:b@127.0.0.1:{free_port()}/idem?region=eu-central-1&timeout=1"
    store = lab.open(url)
    for call in (partial(store.claim, "k"), store.ping, store.migrate, store.purge):
        within(1, call, StoreUnavailable, StoreTimeout)


def test_silent_port(lab):
    """Somebody listens but says nothing: StoreTimeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        store = lab.open(f"dynamodb+http://a:b@127.0.0.1:{port}/idem?region=eu-central-1&timeout=0.5")
        within(0.5, partial(store.claim, "k"), StoreTimeout)


class Answering:
    """A listener that answers every connection with the same bytes, and counts them."""

    def __init__(self, reply):
        self.reply, self.count = reply, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"dynamodb+http://a:b@127.0.0.1:{self.listener.getsockname()[1]}/idem?region=eu-central-1"

    def run(self):
        """Until the listener is closed."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                connection.recv(65536)
                self.count += 1
                connection.sendall(self.reply)

    def __enter__(self):
        threading.Thread(target=self.run, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nspam",
        b"HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"",
    ],
    ids=["no json", "not found", "no date", "no http", "closes"],
)
def test_endpoint_that_is_not_dynamodb(lab, reply):
    """Another program behind the port: one of our errors, in time, never a claim."""
    with Answering(reply) as other:
        store = lab.open(f"{other.url}&timeout=2")
        began = time.monotonic()
        with pytest.raises((StoreMisbehaved, StoreUnavailable)):
            store.claim("k")
        assert time.monotonic() - began < 2 + SLACK


def refusal(code, status=400):
    """An error response as DynamoDB sends it, dated."""
    body = b'{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"no"}' % code.encode()
    head = f"HTTP/1.1 {status} No\r\nDate: {formatdate(usegmt=True)}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/x-amz-json-1.0\r\n\r\n" + body


@pytest.mark.parametrize(
    ("code", "status", "kind", "tries"),
    [
        ("ProvisionedThroughputExceededException", 400, errors.Throttled, 4),
        ("ThrottlingException", 400, errors.Throttled, 4),
        ("InternalServerError", 500, errors.StoreUnavailable, 4),
        ("AccessDeniedException", 400, errors.AccessDenied, 1),
        ("ExpiredTokenException", 400, errors.AccessDenied, 1),
    ],
)
def test_answers_that_only_aws_gives(lab, code, status, kind, tries):
    """Errors that DynamoDB Local never has: botocore tries again where that may help, then each is one of ours."""
    with Answering(refusal(code, status)) as service:
        store = lab.open(f"{service.url}&timeout=10")
        error = raises(kind, store.ping)
        assert (service.count, error.retryable) == (tries, tries > 1)
        assert type(error) is kind
        raises(kind, partial(store.claim, "k"))


@pytest.mark.parametrize("at_once", [0, 41, 39_000])
def test_slow_reply_keeps_the_deadline(lab, at_once):
    """A reply that comes byte by byte, from its first byte or somewhere in its body, does not hold a call up."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + b"x" * 40_000
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def drip():
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply[:at_once])
                    for start in range(at_once, len(reply)):
                        if stop.wait(0.2):
                            return
                        connection.sendall(reply[start : start + 1])
            except OSError:
                return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        store = lab.open(f"dynamodb+http://a:b@127.0.0.1:{port}/idem?region=eu-central-1&timeout=0.8")
        within(0.8, store.ping, StoreTimeout)
        stop.set()
    thread.join(10)


@pytest.mark.parametrize("mode", MODES)
def test_shorter_time_of_one_call(subject, server, mode):
    """The time that a call is given counts, not the store's: what follows in a chain has less."""
    request = probe(subject.table)
    _, settings = read_settings(parse_url(subject.url), mode)
    server.pause()
    try:
        began = time.monotonic()
        if mode == "sync":
            driver = sync.Boto3Driver(settings, ServerClock(0))
            with pytest.raises(StoreTimeout):
                driver.execute(request, 0.4)
            driver.close()
        else:
            asyncio.run(_short(settings, request))
        assert time.monotonic() - began < 0.4 + SLACK
    finally:
        server.resume()


async def _short(settings, request):
    """In async mode."""
    driver = aio.AiobotocoreDriver(settings, ServerClock(0))
    with pytest.raises(StoreTimeout):
        await driver.execute(request, 0.4)
    await driver.close()


def test_full_pool_keeps_the_deadline(lab, server):
    """While one connection is held up, a second caller does not wait for it for ever."""
    store = with_options(lab, "timeout=0.8", "connections=1")
    lab.store.ping()
    server.pause()
    try:
        callers = [lab.background(partial(within, 0.8, store.ping, StoreTimeout)) for _ in range(4)]
        for caller in callers:
            caller.result()
    finally:
        server.resume()


def test_migrate_waits_no_longer_than_its_time(lab, server, monkeypatch):
    """A table that never becomes active ends in StoreTimeout."""
    monkeypatch.setattr("idemstore.store.MIGRATE_TIMEOUT", 1.0)
    monkeypatch.setattr("idemstore.async_store.MIGRATE_TIMEOUT", 1.0)
    store = lab.open()
    lab.store.ping()
    server.pause()
    try:
        within(1.0, store.migrate, StoreTimeout)
    finally:
        server.resume()


# -- TLS --------------------------------------------------------------------------------------------------------------


async def pipe(reader, writer):
    """Bytes from here to there, until either side ends."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def in_tls(host, certificate):
    """TLS in front of a server; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)

    async def forward(reader, writer):
        upstream, back = await asyncio.open_connection(host.name, host.port)
        await asyncio.gather(pipe(reader, back), pipe(upstream, writer))

    async def end(server):
        server.close()

    with LoopThread() as thread:
        server = thread.call(asyncio.start_server(forward, "127.0.0.1", 0, ssl=context))
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            thread.call(end(server))


@pytest.mark.skipif(not tls.available(), reason="openssl is not installed")
def test_tls(lab, tmp_path, monkeypatch):
    """Whom AWS_CA_BUNDLE trusts is spoken to over TLS, about large results, too; nobody else is."""
    host, certificate = parse_url(lab.subject.url).hosts[0], tls.make(tmp_path)
    with in_tls(host, certificate) as port:
        url = altered(lab, "timeout=5").replace("dynamodb+http", "dynamodb").replace(f":{host.port}/", f":{port}/")
        assert "SSLError" in str(raises(StoreUnavailable, lab.open(url).ping))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.authority))
        store, key, result = lab.open(url), lab.key(), os.urandom(500_000)
        done(store.complete(key, claimed(store.claim(key)).token, result))
        assert store.claim(key) == Completed(result)
        store.close()


# -- credentials -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    """A machine without any."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def test_no_credentials(lab, no_credentials):
    """AccessDenied, saying where to put some; and the next call works once they are there."""
    store = lab.open(lab.subject.url.replace("idemstore:idemstore@", ""))
    assert "AWS_ACCESS_KEY_ID" in str(raises(errors.AccessDenied, partial(store.claim, lab.key())))


def test_credentials_of_a_profile(lab, no_credentials):
    """A profile's credentials and region are used."""
    (no_credentials / "config").write_text("[profile mine]\nregion = eu-central-1\n")
    (no_credentials / "credentials").write_text("[mine]\naws_access_key_id = a\naws_secret_access_key = b\n")
    url = lab.subject.url.replace("idemstore:idemstore@", "").replace("region=eu-central-1", "profile=mine")
    claimed(lab.open(url).claim(lab.key()))


def test_certificates_that_cannot_be_read(lab, monkeypatch):
    """A bundle that is not there is an error of the configuration, and the next call looks again."""
    monkeypatch.setenv("AWS_CA_BUNDLE", "/absent/bundle.pem")
    store = lab.open(f"dynamodb://a:b@127.0.0.1:{free_port()}/idem?region=eu-central-1&timeout=2")
    for _ in range(2):
        assert "AWS_CA_BUNDLE" in str(raises(errors.ConfigurationError, partial(store.claim, "k")))
    monkeypatch.delenv("AWS_CA_BUNDLE")
    within(2, store.ping, StoreUnavailable, StoreTimeout)


def test_nothing_secret_is_logged(lab, caplog):
    """At INFO and above the whole life of a key leaves no log line, of ours or botocore's, with a secret in it."""
    caplog.set_level(logging.INFO)
    key = lab.key("secret-key")
    store = lab.open(lab.subject.url.replace("idemstore:idemstore@", "AKIASHOWN:secret-word@"))
    token = claimed(store.claim(key)).token
    done(store.complete(key, token, b"secret-result"))
    store.claim(key)
    text = "\n".join(record.getMessage() for record in caplog.records)
    for secret in ("secret-word", "AKIASHOWN", "secret-result", token, key):
        assert secret not in text


# -- cancellation ----------------------------------------------------------------------------------------------------


def test_cancelled_calls_leave_the_store_usable(subject):
    """A task that is cancelled in the middle of a call harms no other."""

    async def main():
        async with idemstore.open_async(subject.url) as store:
            await store.ping()
            for turn in range(20):
                task = asyncio.create_task(store.claim(f"cancel-{turn}-{os.urandom(3).hex()}"))
                await asyncio.sleep(0.0005 * turn)
                task.cancel()
                await asyncio.wait([task])
            key = f"after-{os.urandom(3).hex()}"
            assert isinstance(await store.claim(key), Claimed)
            assert isinstance(await store.claim(key), InFlight)

    asyncio.run(main())


def test_requests_are_values():
    """A dialect knows no driver: the same exchange serves both modes."""
    exchange = DynamoDBDialect("table", 100).claim("k", Claim(None, "t", 1000, None))
    assert exchange.request.operation == "update_item"
