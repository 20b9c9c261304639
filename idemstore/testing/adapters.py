"""``AdapterContract``: HTTP behaviours that every adapter must show. Subclass it, say how the adapter is put before an
application, and give it a ``subject`` fixture (a backend, as for ``StoreContract``)::

    class TestMyAdapter(AdapterContract):
        mode = "async"  # the kind of store that the adapter takes

        def serve(self, desk, store, policy, thread):
            return AsgiServed(my_app(desk, store, policy), thread)

The application asks ``desk.answer(body)`` on ``POST`` and ``GET`` of any path, and sends what the ``Reply`` says.
"""

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

import idemstore
from idemstore.async_store import AsyncStore
from idemstore.http.choices import keep_everything
from idemstore.http.keyformat import KeyFormat, Quoting
from idemstore.http.policy import HttpPolicy
from idemstore.machine import State
from idemstore.policy import StoreDown
from idemstore.store import Store
from idemstore.testing.adapter_bench import Bench, Mode
from idemstore.testing.adapter_desk import Desk, Reply, Served
from idemstore.testing.blocking import PATIENCE, LoopThread
from idemstore.testing.faults import Stop
from idemstore.testing.subject import Subject

PARALLEL = 20


class AdapterContract:
    """The whole contract."""

    mode: ClassVar[Mode] = "sync"
    """Which store the adapter takes."""
    leaves: ClassVar[bool] = True
    """Whether ``Served.leave`` can be made to work."""
    streams: ClassVar[bool] = True
    """Whether the adapter sees a streamed response part by part."""

    def serve(self, desk: Desk, store: Store | AsyncStore, policy: HttpPolicy, thread: LoopThread) -> Served:
        """An application before ``desk``, behind the adapter. ``thread`` has the loop of an ``AsyncStore``."""
        raise NotImplementedError

    @pytest.fixture
    def bench(self, subject: Subject) -> Iterator[Bench]:
        """What every test gets."""
        made = Bench(self.serve, self.mode, subject)
        yield made
        made.close()

    # -- running and replaying ---------------------------------------------------------------------------------------

    def test_the_first_runs_and_retries_replay(self, bench: Bench) -> None:
        """Same status, headers and body, and marked as a replay; what is about one response is not repeated."""
        headers = (("x-order", "7"), ("set-cookie", "s=1"), ("content-type", "text/x"), ("date", "then"))
        bench.desk.order(Reply(202, headers, [b"made"]))
        first, again = bench.post(), bench.post()
        assert (first.status, first.body, first.header("set-cookie")) == (202, b"made", "s=1")
        assert first.header("idempotency-replayed") is None
        assert (again.status, again.body) == (202, b"made")
        assert (again.header("x-order"), again.header("content-type")) == ("7", "text/x")
        assert (again.header("idempotency-replayed"), again.header("content-length")) == ("true", "4")
        assert again.header("set-cookie") is None
        assert bench.desk.runs == 1

    def test_the_application_gets_the_whole_body(self, bench: Bench) -> None:
        """What was read for the fingerprint is handed on."""
        body = json.dumps({"text": "x" * 300_000}).encode()
        bench.post(body=body)
        assert bench.desk.bodies == [body]

    def test_empty_bodies(self, bench: Bench) -> None:
        """A response without a body is replayed as such."""
        bench.desk.order(Reply(204, (), [], declared=False))
        assert [(got.status, got.body) for got in (bench.post(body=b""), bench.post(body=b""))] == [(204, b"")] * 2
        assert bench.desk.runs == 1

    def test_parallel_retries_run_once(self, bench: Bench) -> None:
        """Twenty at once: one runs, the others wait and get its response."""
        bench.use(wait=30)
        answers = bench.many(PARALLEL, bench.post)
        assert bench.desk.runs == 1
        assert {(got.status, got.body) for got in answers} == {(201, b"run 1")}
        assert sum(got.header("idempotency-replayed") == "true" for got in answers) == PARALLEL - 1

    def test_parallel_retries_are_told_where_they_do_not_wait(self, bench: Bench) -> None:
        """While one runs the others get 409; afterwards the response."""
        stop = bench.desk.stop()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(bench.post)
            assert stop.reached()
            answers = bench.many(PARALLEL, bench.post)
            stop.go()
            assert first.result(PATIENCE).body == b"stopped"
        assert {(got.status, got.problem, got.header("retry-after")) for got in answers} == {(409, "in-flight", "1")}
        assert bench.post().body == b"stopped"
        assert bench.desk.runs == 1

    def test_waiting_ends(self, bench: Bench) -> None:
        """After ``wait`` a request that waits gets 409, too."""
        bench.use(wait=0.2)
        stop = bench.desk.stop()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(bench.post)
            assert stop.reached()
            assert bench.post().problem == "in-flight"
            stop.go()
            assert first.result(PATIENCE).status == 201

    def test_another_payload_is_refused(self, bench: Bench) -> None:
        """422, whether the first one is done or not; the payload of the first one still replays."""
        stop = bench.desk.stop()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(bench.post)
            assert stop.reached()
            early = bench.post(body=b"other")
            stop.go()
            first.result(PATIENCE)
        late = bench.post(body=b"other")
        assert [(got.status, got.problem) for got in (early, late)] == [(422, "key-reused")] * 2
        assert bench.post().body == b"stopped"
        assert bench.desk.runs == 1

    def test_a_server_error_frees_the_key(self, bench: Bench) -> None:
        """The retry runs; another payload may be sent, too."""
        bench.desk.order(Reply(503, parts=[b"sorry"]))
        assert bench.post().status == 503
        assert bench.state() is None
        assert (bench.post(body=b"other").status, bench.desk.runs) == (201, 2)

    def test_an_application_that_raises_frees_the_key(self, bench: Bench) -> None:
        """Its error goes to the server as it would without the adapter."""
        bench.desk.order(Reply(error=ValueError("broken")))
        assert bench.post().status == 500
        assert (bench.post().status, bench.desk.runs) == (201, 2)

    def test_failures_can_be_kept(self, bench: Bench) -> None:
        """By the policy: a 4xx and a 500 are replayed, as is what raised."""
        bench.use(fate=keep_everything)
        bench.desk.order(Reply(404, parts=[b"no"]))
        bench.desk.order(Reply(500, parts=[b"sorry"]))
        bench.desk.order(Reply(error=ValueError("broken")))
        for key, status in (("a", 404), ("b", 500), ("c", 500)):
            first, again = bench.post(key), bench.post(key)
            assert (first.status, again.status) == (status, status)
            assert again.header("idempotency-replayed") == "true"
            assert bench.state(key) is State.FAILED
        assert bench.post("c").problem == "failed"
        assert bench.desk.runs == 3

    def test_what_is_over_is_over(self, bench: Bench) -> None:
        """After the retention the key is free."""
        bench.use(retention=60)
        bench.post()
        bench.age(61)
        assert (bench.post().body, bench.desk.runs) == (b"run 2", 2)

    def test_a_crash_is_taken_over(self, bench: Bench) -> None:
        """A claim whose owner died is left alone until its lease is over; then the retry runs."""
        bench.use(fingerprint=None)
        bench.look.claim(bench.policy.key(bench.tenant, "k"), lease=30)
        assert bench.post().status == 409
        bench.age(31)
        assert (bench.post().status, bench.desk.runs) == (201, 1)

    def test_a_crash_can_be_left_to_an_operator(self, bench: Bench) -> None:
        """By the policy it rather does not run than runs twice; once the key is settled the answer is there."""
        bench.use(takeover=False)
        key = bench.policy.key(bench.tenant, "k")
        claim = bench.look.claim(key, lease=30)
        assert isinstance(claim, idemstore.Claimed)
        bench.age(31)
        got = bench.post()
        assert (got.status, got.problem, bench.desk.runs) == (409, "abandoned", 0)
        bench.look.release(key, claim.token)
        assert (bench.post().status, bench.desk.runs) == (201, 1)

    # -- who and what it is for --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", [None, "", "   ", '""'])
    def test_without_a_key_it_runs_unprotected(self, bench: Bench, key: str | None) -> None:
        """Missing and blank are the same; nothing is stored and the store is not asked."""
        bench.faults.lose_request()
        assert [bench.post(key).body for _ in range(2)] == [b"run 1", b"run 2"]
        assert bench.faults.round_trips == 0

    @pytest.mark.parametrize("key", [None, "", "   ", '""'])
    def test_a_key_can_be_required(self, bench: Bench, key: str | None) -> None:
        """400 with a problem document; nothing runs."""
        bench.use(required=True)
        got = bench.post(key)
        assert (got.status, got.problem, bench.desk.runs) == (400, "key-required", 0)

    @pytest.mark.parametrize(
        "key",
        ["k\x00", "k\x1b[0m", "schl\xfcssel", "k" * 256, '"open', 'a"b"c', '"a"b', '"\\x"', "a" * 10_000_000],
        ids=lambda key: repr(key)[:20],
    )
    def test_bad_keys_are_refused(self, bench: Bench, key: str) -> None:
        """400 with a problem document, never 500; nothing runs, nothing is stored."""
        bench.use(key_format=KeyFormat(quoting=Quoting.REQUIRED if '"' in key else Quoting.NEVER))
        got = bench.post(key)
        assert (got.status, got.problem, bench.desk.runs) == (400, "invalid-key", 0)
        assert bench.faults.round_trips == 0

    def test_a_header_that_comes_twice_is_refused(self, bench: Bench) -> None:
        """Also where the server joins the two."""
        headers = (*bench.headers("one"), ("idempotency-key", "two"))
        got = bench.served.request("POST", "/orders", headers, b"{}")
        assert (got.status, got.problem, bench.desk.runs) == (400, "invalid-key", 0)

    def test_quotes_are_not_part_of_the_key(self, bench: Bench) -> None:
        """A structured-field string and a bare key are the same, unless the policy says otherwise."""
        assert bench.post("k").body == bench.post('"k"').body == bench.post('  "k"  ').body
        assert bench.desk.runs == 1

    def test_tenants_are_apart(self, bench: Bench) -> None:
        """The same key of another user runs, and is replayed to that user alone."""
        other = f"bob-{uuid.uuid4().hex}"
        assert [bench.post().body, bench.post(x_user=other).body] == [b"run 1", b"run 2"]
        assert [bench.post().body, bench.post(x_user=other).body] == [b"run 1", b"run 2"]

    def test_odd_scopes_and_long_keys_are_stored(self, bench: Bench) -> None:
        """What the store could not take as it is still has a key of its own; never a 500."""
        bench.use(key_format=KeyFormat(max_length=None))
        for tenant in ("u" * 3000, "\xfc\xe9", "a:b%c"):
            own, key = f"{bench.tenant}-{tenant}", "k" * 3000
            first, again = bench.post(key, x_user=own), bench.post(key, x_user=own)
            assert (first.status, again.body) == (201, first.body)
        assert bench.desk.runs == 3

    def test_nobody_known_passes_through(self, bench: Bench) -> None:
        """The application refuses by itself; no key is bound."""
        bench.use(scope=lambda request: None, required=True)
        assert [bench.post(key).body for key in ("k", "k", None, "\x01")] == [b"run %d" % n for n in (1, 2, 3, 4)]

    def test_a_scope_that_is_empty_is_a_500(self, bench: Bench) -> None:
        """A mistake on the server: callers must not be mixed up."""
        bench.use(scope=lambda request: "")
        got = bench.post()
        assert (got.status, got.problem, bench.desk.runs) == (500, "misconfigured", 0)

    def test_other_methods_and_routes_pass_through(self, bench: Bench) -> None:
        """The store is not asked."""
        bench.use(routes=lambda request: request.path == "/orders")
        for method, path in (("GET", "/orders"), ("POST", "/elsewhere")):
            got = [bench.served.request(method, path, bench.headers("k"), b"") for _ in range(2)]
            assert got[0].body != got[1].body
        assert (bench.desk.runs, bench.faults.round_trips) == (4, 0)

    def test_large_requests_are_refused(self, bench: Bench) -> None:
        """413; without a key they pass."""
        bench.use(max_request=1000)
        got = bench.post(body=b"x" * 1001)
        assert (got.status, got.problem, bench.desk.runs) == (413, "payload-too-large", 0)
        assert bench.post(None, b"x" * 1001).status == 201
        assert bench.post(body=b"x" * 1000).status == 201

    def test_a_record_of_another_operation_is_never_replayed(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A record of another route, or of another program: 500, logged, and not a word of it."""
        bench.use(fingerprint=None)
        bench.desk.order(Reply(parts=[b"secret"]))
        bench.post()
        claim = bench.look.claim(bench.policy.key(bench.tenant, "foreign"))
        assert isinstance(claim, idemstore.Claimed)
        bench.look.complete(bench.policy.key(bench.tenant, "foreign"), claim.token, b"secret")
        other = bench.served.request("POST", "/refunds", bench.headers("k"), b"{}")
        for got in (other, bench.post("foreign")):
            assert (got.status, got.problem) == (500, "unreadable-record")
            assert b"secret" not in got.body
        assert bench.desk.runs == 1
        told = [record.getMessage() for record in caplog.records if record.name == "idemstore.http"]
        assert len(told) == 2
        assert "another operation" in told[0]
        assert "secret" not in "".join(told)

    # -- the store is in trouble -------------------------------------------------------------------------------------

    def test_store_down_refuses(self, bench: Bench) -> None:
        """503 and Retry-After; nothing runs. A claim that was applied all the same is not in the way afterwards."""
        for lose in (bench.faults.lose_request, bench.faults.lose_reply):
            lose()
            got = bench.post()
            assert (got.status, got.problem, got.header("retry-after")) == (503, "store-unavailable", "1")
        assert bench.desk.runs == 0
        assert (bench.post().status, bench.desk.runs) == (201, 1)

    def test_store_down_can_proceed(self, bench: Bench) -> None:
        """By the policy it runs unprotected."""
        bench.use(store_down=StoreDown.PROCEED)
        bench.faults.lose_request()
        assert (bench.post().body, bench.state()) == (b"run 1", None)
        assert (bench.post().body, bench.post().body) == (b"run 2", b"run 2")

    def test_a_completion_that_is_lost_is_sent_again(self, bench: Bench) -> None:
        """Replies or requests lost, a few times over: the record is there all the same."""
        bench.post("before")  # a server that has just started may have to be told its scripts, which takes another call
        for key, lose in (("a", bench.faults.lose_request), ("b", bench.faults.lose_reply)):
            bench.faults.passing()
            for _ in range(4):
                lose()
            first, again = bench.post(key), bench.post(key)
            assert (first.status, again.status, again.body) == (201, 201, first.body)
        assert bench.desk.runs == 3

    def test_work_that_is_done_is_answered_although_the_store_is_gone(self, bench: Bench) -> None:
        """The client gets its response; the record stays in flight until its lease ends."""
        bench.use(patience=0.2)
        bench.post("before")  # as above
        bench.faults.passing()
        for _ in range(50):
            bench.faults.lose_request()
        assert bench.post().body == b"run 2"
        assert bench.state() is State.IN_FLIGHT

    def test_a_stale_owner_is_not_told_that_it_succeeded(self, bench: Bench) -> None:
        """It was taken over while it ran: 409, and the response of its successor is the one that counts."""
        stop = bench.desk.stop()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(bench.post)
            assert stop.reached()
            bench.age(31)
            second = bench.post()
            stop.go()
            lost = first.result(PATIENCE)
        assert (second.status, second.body) == (201, b"run 2")
        assert (lost.status, lost.problem) == (409, "lease-lost")
        assert bench.post().body == b"run 2"

    # -- large and streamed responses, clients that leave ------------------------------------------------------------

    def test_a_response_of_a_mebibyte_is_replayed(self, bench: Bench) -> None:
        """Byte for byte."""
        body = bytes(range(256)) * 4096
        bench.desk.order(Reply(parts=[body]))
        first, again = bench.post(), bench.post()
        assert first.body == body
        assert again.body == body or again.problem == "body-not-kept"
        assert bench.desk.runs == 1

    @pytest.mark.parametrize("declared", [True, False])
    def test_streamed_responses_are_replayed(self, bench: Bench, declared: bool) -> None:
        """Their parts are joined."""
        bench.desk.order(Reply(parts=[b"a", b"", b"b", b"c"], declared=declared))
        first, again = bench.post(), bench.post()
        assert (first.body, first.whole, again.body, again.header("content-length")) == (b"abc", True, b"abc", "3")
        assert bench.desk.runs == 1

    @pytest.mark.parametrize("declared", [True, False])
    def test_large_responses_pass_through(self, bench: Bench, declared: bool) -> None:
        """They are recorded without their body, and a retry is told so: 410, with the original status."""
        bench.use(max_response=1000)
        bench.desk.order(Reply(201, (("location", "/orders/7"),), [b"x" * 400] * 3, declared))
        first, again = bench.post(), bench.post()
        assert (first.status, first.body, first.whole) == (201, b"x" * 1200, True)
        assert (again.status, again.problem, again.header("location")) == (410, "body-not-kept", "/orders/7")
        assert json.loads(again.body)["original_status"] == 201
        assert bench.desk.runs == 1

    def test_a_stream_that_breaks_frees_the_key(self, bench: Bench) -> None:
        """The client has half a response, so the retry runs."""
        bench.desk.order(Reply(parts=[b"half"], declared=False, error=ValueError("broken")))
        assert not bench.post().whole
        assert (bench.post().body, bench.desk.runs) == (b"run 2", 2)

    def test_a_client_that_leaves_loses_nothing(self, bench: Bench) -> None:
        """The application goes on to its end, and the retry gets its response."""
        if not self.leaves:
            pytest.skip("this adapter's server cannot be left")
        for declared in (True, False):
            key = f"left-{declared}"
            stop = bench.desk.stop(Reply(parts=[b"fi", b"nished"], declared=declared))

            def reached(stop: Stop = stop) -> None:
                assert stop.reached()
                threading.Timer(0.05, stop.go).start()

            bench.served.leave("POST", "/orders", bench.headers(key), b"{}", reached)
            assert bench.post(key).body == b"finished"
        assert bench.desk.runs == 2
