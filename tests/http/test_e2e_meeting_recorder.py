"""D, meeting recorder, end to end: Flask under gunicorn, two workers with threads, on Redis."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from e2e_contract import EndToEnd
from e2e_support import CRASH, HOUR, App, new_key


class TestD(EndToEnd):
    """Column D."""

    kind, family = "gunicorn", "redis"
    example, outside = "meeting_recorder", "dispatch"
    path, body, other = "/recorders", {"meeting": "https://meet.example/1"}, {"meeting": "https://meet.example/2"}
    kept = HOUR
    good = ("{}", "any, string: {}?", '"{}"', "{}" + "k" * 5000)

    def scope(self, user: str = "ann", method: str = "POST", path: str | None = None) -> tuple[str, ...]:
        """User and path."""
        return user, path or self.path

    def test_where(self, app: App):
        """Every PUT, POST and PATCH; not DELETE."""
        for method in ("PUT", "POST", "PATCH"):
            self.assert_once(app, new_key(), path="/recorders/7", method=method)
        self.assert_once(app, new_key())
        key = new_key()
        self.assert_each(app, key, key, path="/recorders/7", method="DELETE")
        assert self.record(app, key, "/recorders/7") is None

    def test_scope(self, app: App):
        """User and path: with another of either, the same key is another operation; another method is not."""
        key = new_key()
        first = self.post(app, key, path="/recorders/7")
        self.assert_each(app, key, path="/recorders/8")
        self.assert_each(app, key, path="/recorders/7", user="bob")
        self.assert_each(app, key)
        assert app.runs == 4
        for method in ("POST", "PUT", "PATCH"):
            self.assert_replay(first, self.post(app, key, path="/recorders/7", method=method))
        assert app.runs == 4

    def test_replay(self, app: App):
        """The first response, with no mark."""
        key = new_key()
        first, again = self.post(app, key), self.post(app, key)
        self.assert_replay(first, again)
        assert again.json()["meeting"] == self.body["meeting"]
        assert not [name for name in again.headers if "replay" in name]

    def test_other_payload(self, app: App):
        """Ignored: the original is replayed."""
        key = new_key()
        first = self.post(app, key)
        for body in (self.other, {"nonsense": 1}):
            self.assert_replay(first, self.post(app, key, body))
        assert app.runs == 1

    @pytest.mark.parametrize("code", [400, 404, 409, 500, 507])
    def test_failures_kept(self, app: App, code: int):
        """Every response, 507 included: a new key is needed."""
        self.assert_failure_kept(app, code, HOUR)
        self.assert_each(app, new_key())

    def test_a_crash_is_kept(self, app: App):
        """A handler that raises has answered 500."""
        key = new_key()
        app.world.order(CRASH)
        assert [self.post(app, key).status_code for _ in range(3)] == [500, 500, 500]
        assert app.runs == 1

    def test_kept_for(self, app: App):
        """An hour after the completion, however long the request took."""
        super().test_kept_for(app)
        key = new_key()
        with ThreadPoolExecutor(1) as pool, app.world.hold() as gate:
            first = pool.submit(self.post, app, key)
            gate.begun()
            app.age(self.scope(), key, 1800)  # half an hour passes; nobody asks, so nobody takes over
            gate.go()
            assert first.result(60).status_code == 201
        found = self.record(app, key)
        assert found is not None
        assert HOUR - 30 < (found.expires_in or 0) <= HOUR

    def test_one_worker_is_killed_mid_request(self, app: App):
        """The other one, and the one that takes its place, leave the key alone until the lease is over."""
        self.assert_worker_killed(app)
