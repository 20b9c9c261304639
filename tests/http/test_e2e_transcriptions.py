"""C, recordings and transcriptions, end to end: FastAPI under uvicorn, on PostgreSQL."""

from typing import ClassVar

import pytest
from e2e_contract import EndToEnd
from e2e_support import DAY, App, new_key


class TestC(EndToEnd):
    """Column C."""

    kind, family = "uvicorn", "postgresql"
    example, outside = "transcriptions", "fetch transcribe"
    path, body, other = "/recordings", {"url": "https://files.example/1"}, {"url": "https://files.example/2"}
    people: ClassVar = {"ann": "podcast", "bob": "archive"}
    kept = DAY
    good = ("{}", "A-z_0-9-{}", "{}" + "k" * (255 - 18))
    bad = ("k" * 256, "a b", "a.b", "a,b", '"a"', "a/b")

    def scope(self, user: str = "ann", method: str = "POST", path: str | None = None) -> tuple[str, ...]:
        """Project and operation."""
        return self.people[user], f"{method} {path or self.path}"

    def test_where(self, app: App):
        """POST of the listed endpoints, those that create or trigger; nothing else."""
        key = new_key()
        self.assert_once(app, key)
        self.assert_once(app, key, {"language": "de"}, path="/recordings/7/transcribe")
        self.assert_each(app, key, key, body={"language": "de"}, path="/searches")
        assert app.get(self.scope(path="/searches"), key) is None

    def test_scope(self, app: App):
        """Project and operation: with another of either, the same key is another operation."""
        key, how = new_key(), {"language": "de"}
        self.assert_each(app, key)
        self.assert_each(app, key, user="bob")
        self.assert_each(app, key, body=how, path="/recordings/7/transcribe")
        assert self.post(app, key, how, path="/recordings/8/transcribe").status_code == 409  # the same operation
        assert app.runs == 3

    def test_replay(self, app: App):
        """The first response, with no mark."""
        key = new_key()
        first, again = self.post(app, key), self.post(app, key)
        self.assert_replay(first, again)
        assert again.json()["url"] == self.body["url"]
        assert not [name for name in again.headers if "replay" in name]

    def test_other_payload(self, app: App):
        """A conflict; the first payload is still replayed."""
        key = new_key()
        first, other = self.post(app, key), self.post(app, key, self.other)
        assert (other.status_code, self.problem(other)) == (409, "key-reused")
        self.assert_replay(first, self.post(app, key))
        assert app.runs == 1

    @pytest.mark.parametrize("code", [400, 404, 429])
    def test_failures_kept(self, app: App, code: int):
        """A 4xx is replayed for 24 hours."""
        self.assert_failure_kept(app, code, DAY)

    @pytest.mark.parametrize("code", [500, 503])
    def test_failures_not_kept(self, app: App, code: int):
        """After a 5xx the same key may be tried again."""
        self.assert_freed(app, code)

    def test_what_does_not_validate_is_kept(self, app: App):
        """FastAPI's own 422 is a 4xx as any other."""
        key = new_key()
        first, again = self.post(app, key, {"nonsense": 1}), self.post(app, key, {"nonsense": 1})
        assert first.status_code == 422
        self.assert_replay(first, again)
