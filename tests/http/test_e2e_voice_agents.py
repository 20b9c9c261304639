"""B, voice agents, end to end: Flask under gunicorn, two workers with threads, on PostgreSQL."""

from typing import ClassVar

import pytest
from e2e_contract import EndToEnd
from e2e_support import HOUR, App, new_key

from idemstore.http import Request, body_fingerprint

SENT = b'{"to":"+1 555 0100"}'
"""The body as httpx sends it: it is a part of the stored key."""


class TestB(EndToEnd):
    """Column B."""

    kind, family = "gunicorn", "postgresql"
    example, outside = "voice_agents", "dial provision"
    header = "X-Idempotency-Key"
    path, body, other = "/calls", {"to": "+1 555 0100"}, {"to": "+1 555 0199"}
    people: ClassVar = {"ann": "acme", "bob": "globex"}
    kept = HOUR
    good = ("{}", "any, string: {}?", '"{}"', "{}" + "k" * 5000)

    def scope(self, user: str = "ann", method: str = "POST", path: str | None = None) -> tuple[str, ...]:
        """Organization and endpoint; the payload is a part of the identity."""
        where = path or self.path
        digest = body_fingerprint(Request(method, where, body=SENT)).hex()
        return self.people[user], f"{method} {where}", digest

    def test_header(self, app: App):
        """``X-Idempotency-Key`` in any case; ``Idempotency-Key`` is not looked at."""
        super().test_header(app)
        for _ in range(2):
            app.send("POST", self.path, {**self.headers(None), "Idempotency-Key": "k"}, self.body)
        assert app.runs == 3

    def test_where(self, app: App):
        """POST of the listed endpoints; nothing else."""
        for path in ("/calls", "/agents", "/agents/7/tools"):
            self.assert_once(app, new_key(), path=path)
        key = new_key()
        self.assert_each(app, key, key, path="/searches")
        assert self.record(app, key, "/searches") is None

    def test_scope(self, app: App):
        """Organization and endpoint: with another of either, the same key is another operation."""
        key = new_key()
        self.assert_each(app, key)
        self.assert_each(app, key, user="bob")
        self.assert_each(app, key, path="/agents")
        self.assert_each(app, key, path="/agents/7/tools")
        self.assert_each(app, key, path="/agents/8/tools")
        self.assert_once_more(app, key)

    def assert_once_more(self, app: App, key: str) -> None:
        """Each is replayed by its own record."""
        runs = app.runs
        kinds = [self.post(app, key, path=path).json()["id"] for path in ("/calls", "/agents", "/agents/7/tools")]
        assert [kind.partition("-")[0] for kind in kinds] == ["call", "agent", "tool"]
        assert app.runs == runs

    def test_replay(self, app: App):
        """The first response, byte for byte: status 201, body, headers."""
        key = new_key()
        first, again = self.post(app, key), self.post(app, key)
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.content == first.content
        kept = ("content-type", "location", "content-length")
        assert [again.headers[name] for name in kept] == [first.headers[name] for name in kept]
        assert not [name for name in again.headers if "replay" in name]

    def test_other_payload(self, app: App):
        """A new request: the payload is part of the identity; both are replayed."""
        key = new_key()
        one, two = self.post(app, key), self.post(app, key, self.other)
        assert (one.status_code, two.status_code) == (201, 201)
        assert one.json()["id"] != two.json()["id"]
        assert app.runs == 2
        self.assert_replay(one, self.post(app, key))
        self.assert_replay(two, self.post(app, key, self.other))
        assert app.runs == 2

    @pytest.mark.parametrize("code", [400, 404, 429, 500, 503])
    def test_failures_kept(self, app: App, code: int):
        """The response is stored, whatever it says."""
        self.assert_failure_kept(app, code, HOUR)

    def test_one_worker_is_killed_mid_request(self, app: App):
        """The other one, and the one that takes its place, leave the key alone until the lease is over."""
        self.assert_worker_killed(app)
