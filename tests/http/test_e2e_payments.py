"""E, payments as Stripe takes them, end to end: Flask under gunicorn, two workers with threads, on an SQLite file."""

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import httpx
import pytest
from e2e_contract import EndToEnd
from e2e_support import CRASH, DAY, App, new_key


class TestE(EndToEnd):
    """Column E."""

    kind, family = "gunicorn", "sqlite"
    example, outside = "payments", "move_money"
    path, body, other = "/charges", {"amount": 1000}, {"amount": 2000}
    created = 200
    people: ClassVar = {"ann": "acct_ann", "bob": "acct_bob"}
    kept = DAY
    good = ("{}", "any, string: {}?", '"{}"', "{}" + "k" * (255 - 18))
    bad = ("k" * 256,)

    def scope(self, user: str = "ann", method: str = "POST", path: str | None = None) -> tuple[str, ...]:
        """Account."""
        return (self.people[user],)

    def problem(self, response: httpx.Response) -> str:
        """The example has an error body of its own."""
        assert response.headers["content-type"] == "application/json"
        error = response.json()["error"]
        assert error["type"] == "idempotency_error"
        return str(error["code"])

    def assert_replay(self, first: httpx.Response, again: httpx.Response) -> None:
        """Marked as a replay."""
        super().assert_replay(first, again)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert "idempotency-replayed" not in again.headers

    def test_where(self, app: App):
        """Every POST; nothing else."""
        self.assert_once(app, new_key())
        self.assert_once(app, new_key(), path="/refunds")
        key = new_key()
        self.assert_each(app, key, key, body={"for": "a desk"}, path="/charges/7", method="PUT")
        assert self.record(app, key) is None

    def test_scope(self, app: App):
        """Account: the same key of another one is another operation; another path of one account is an error."""
        key = new_key()
        self.assert_each(app, key)
        self.assert_each(app, key, user="bob")
        elsewhere = self.post(app, key, path="/refunds")
        assert (elsewhere.status_code, self.problem(elsewhere)) == (400, "key-reused")
        assert app.runs == 2

    def test_same_again(self, app: App):
        """Replayed, errors included, 500 as well."""
        super().test_same_again(app)
        for order, code in ((CRASH, 500), ({"status": 500}, 500), ({"status": 402}, 402)):
            key, runs = new_key(), app.runs
            app.world.order(order)
            first, again = self.post(app, key), self.post(app, key)
            assert (first.status_code, again.status_code) == (code, code)
            assert again.headers["Idempotent-Replayed"] == "true"
            assert app.runs == runs + 1

    def test_replay(self, app: App):
        """The first response and ``Idempotent-Replayed: true``, which the first one had not."""
        key = new_key()
        first, again = self.post(app, key), self.post(app, key)
        assert "idempotent-replayed" not in first.headers
        self.assert_replay(first, again)
        assert again.headers.get_list("idempotent-replayed") == ["true"]

    def test_other_payload(self, app: App):
        """An error; the first payload is still replayed."""
        key = new_key()
        first, other = self.post(app, key), self.post(app, key, self.other)
        assert (other.status_code, self.problem(other)) == (400, "key-reused")
        self.assert_replay(first, self.post(app, key))
        assert app.runs == 1

    @pytest.mark.parametrize("code", [402, 404, 500, 503])
    def test_failures_kept(self, app: App, code: int):
        """Every response once execution has begun."""
        self.assert_failure_kept(app, code, DAY)

    def test_failures_not_kept(self, app: App):
        """A validation failure and a conflict with a running request: the key is free, or its owner's."""
        key = new_key()
        assert self.post(app, key, {"amount": -1}).status_code == 400
        assert app.runs == 0
        assert self.record(app, key) is None
        self.assert_once(app, key)  # another payload, even
        key = new_key()
        with ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
            running = pool.submit(self.post, app, key)
            gate.begun()
            assert self.post(app, key).status_code == 409
            gate.go()
            first = running.result(60)
        self.assert_replay(first, self.post(app, key))  # the conflict is not what is kept

    @pytest.mark.parametrize("code", [401, 403, 409, 429])
    def test_refusals_not_kept(self, app: App, code: int):
        """What the outside world refused to begin may be tried again."""
        self.assert_freed(app, code)

    def test_one_worker_is_killed_mid_request(self, app: App):
        """The other one, and the one that takes its place, leave the key alone until the lease is over."""
        self.assert_worker_killed(app)
