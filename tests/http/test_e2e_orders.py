"""F, the IETF's draft, end to end: FastAPI under uvicorn, on an SQLite file."""

from typing import ClassVar

import pytest
from e2e_contract import EndToEnd
from e2e_support import DAY, App, new_key


class TestF(EndToEnd):
    """Column F."""

    kind, family = "uvicorn", "sqlite"
    example, outside = "orders", "buy"
    path, body, other = "/orders", {"item": "desk"}, {"item": "chair"}
    people: ClassVar = {"ann": "acme", "bob": "globex"}
    kept = DAY
    good = ("{}", "a, b {}", "{}" + "k" * (255 - 18))
    absent = ()
    bad = ("8e03978e", '"x', "x y", '"x", "y"', '"' + "k" * 256 + '"', "'x'")

    def scope(self, user: str = "ann", method: str = "POST", path: str | None = None) -> tuple[str, ...]:
        """The server's choice: the account."""
        return (self.people[user],)

    def on_the_wire(self, key: str) -> str:
        """A structured-field string."""
        return f'"{key}"'

    def test_header(self, app: App):
        """In any case, and a structured field: its parameters are no part of the key."""
        super().test_header(app)
        key = new_key()
        first = self.post(app, key)
        again = app.send("POST", self.path, {**self.headers(None), self.header: f'"{key}";a=1'}, self.body)
        self.assert_replay(first, again)

    def test_key(self, app: App):
        """A string in quotes, refused with 400 if it is none; its format is published."""
        super().test_key(app)
        said = app.send("GET", "/openapi.json", {}).json()
        assert "1 to 255 characters in double quotes" in said["info"]["description"]

    def test_where(self, app: App):
        """POST and PATCH; not PUT, not DELETE."""
        self.assert_once(app, new_key())
        self.assert_once(app, new_key(), path="/orders/7", method="PATCH")
        key = new_key()
        self.assert_each(app, key, key, path="/orders/7", method="PUT")
        assert self.record(app, key) is None

    def test_scope(self, app: App):
        """The server's choice, here the account: the same key of another one is another operation."""
        key = new_key()
        self.assert_each(app, key)
        self.assert_each(app, key, user="bob")
        assert self.post(app, key, path="/orders/7", method="PATCH").status_code == 422
        assert app.runs == 2

    def test_replay(self, app: App):
        """The first response, with no mark."""
        key = new_key()
        first, again = self.post(app, key), self.post(app, key)
        self.assert_replay(first, again)
        assert again.json()["item"] == "desk"
        assert not [name for name in again.headers if "replay" in name]

    def test_other_payload(self, app: App):
        """422; the first payload is still replayed."""
        key = new_key()
        first, other = self.post(app, key), self.post(app, key, self.other)
        assert (other.status_code, self.problem(other)) == (422, "key-reused")
        self.assert_replay(first, self.post(app, key))
        assert app.runs == 1

    @pytest.mark.parametrize("code", [400, 404])
    def test_failures_kept(self, app: App, code: int):
        """Not fixed; here a 4xx is replayed for a day."""
        self.assert_failure_kept(app, code, DAY)

    @pytest.mark.parametrize("code", [409, 429, 500, 503])
    def test_failures_not_kept(self, app: App, code: int):
        """Not fixed; here the same key may be tried again after these."""
        self.assert_freed(app, code)

    def test_kept_for(self, app: App):
        """A day, as the server publishes."""
        super().test_kept_for(app)
        assert "for 24 hours" in app.send("GET", "/openapi.json", {}).json()["info"]["description"]

    def test_no_key(self, app: App):
        """400 where a key is required, blank ones included; elsewhere it runs unprotected."""
        for headers in (self.headers(None), {**self.headers(None), self.header: ""}):
            answer = app.raw(headers, self.path, self.body)
            assert (answer.status_code, self.problem(answer)) == (400, "key-required")
        assert app.runs == 0
        self.assert_each(app, None, None, path="/carts")
        self.assert_once(app, new_key(), path="/carts")
        said = app.send("GET", "/openapi.json", {}).json()["paths"]
        headers = {path: said[path]["post"]["parameters"] for path in ("/orders", "/carts")}
        asked = {
            path: [one["required"] for one in found if one["name"] == self.header] for path, found in headers.items()
        }
        assert asked == {"/orders": [True], "/carts": [False]}
