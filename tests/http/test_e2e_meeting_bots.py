"""A, meeting bots, end to end: FastAPI under uvicorn, on Redis."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import httpx
import pytest
from e2e_contract import PARALLEL, EndToEnd
from e2e_support import CRASH, DAY, App, at_once, new_key

URL = "https://meet.example/1"


class TestA(EndToEnd):
    """Column A. Requests wait three seconds for each other rather than ten, since one test waits to the end."""

    kind, family = "uvicorn", "redis"
    example, outside = "meeting_bots", "join_meeting"
    env: ClassVar = {"E2E_WAIT": "3"}
    path, body, other = "/bots", {"meeting_url": URL}, {"meeting_url": "https://meet.example/2"}
    good = ("{}", "any, string: {}?", '"{}"', "{}" + "k" * 20_000)
    absent = ("", "  ", "\t", "null", " null ")

    def scope(self, user: str = "ann", method: str = "POST", path: str | None = None) -> tuple[str, ...]:
        """User."""
        return (user,)

    def assert_replay(self, first: httpx.Response, again: httpx.Response) -> None:
        """Status 507, and the bot as it is now."""
        assert again.status_code == 507
        assert again.json() == {**first.json(), "transcript_id": None}
        assert "idempotency-replayed" not in again.headers

    def assert_stored(self, stored: bytes, again: httpx.Response) -> None:
        """The same bot."""
        assert again.status_code == 507
        assert again.json()["bot_id"].encode() in stored

    def charges(self, app: App) -> int:
        """What Ann has been charged for."""
        return int(app.send("GET", "/charges", self.headers(None)).json())

    def test_where(self, app: App):
        """POST of one endpoint, jobs scheduled ahead among them; nothing else."""
        self.assert_once(app, new_key())
        key = new_key()
        later = {"meeting_url": URL, "join_at": "2031-01-01T09:00:00Z"}
        first, again = self.post(app, key, later), self.post(app, key, later)
        assert (first.json()["status"], again.json()["status"]) == ("scheduled", "scheduled")
        self.assert_replay(first, again)
        bot = first.json()["bot_id"]
        for state in ("joining", "recording"):  # PUT of another path: the same key is none there
            path = f"/bots/{bot}/status?status={state}"
            assert app.send("PUT", path, self.headers(key)).status_code == 204
        assert self.post(app, key, later).json()["status"] == "recording"
        assert app.runs == 2

    def test_scope(self, app: App):
        """User: the same key of another one is another operation."""
        key = new_key()
        first = self.post(app, key)
        self.assert_each(app, key, user="bob")
        self.assert_replay(first, self.post(app, key))

    def test_replay(self, app: App):
        """507, the body rebuilt with the bot's current status, and no new charge."""
        key, charged = new_key(), self.charges(app)
        first = self.post(app, key)
        bot = first.json()
        assert (first.status_code, bot["status"], bot["meeting_url"]) == (201, "joining", URL)
        assert bot["transcript_id"] is not None
        for state in ("joining", "recording", "done"):
            app.send("PUT", f"/bots/{bot['bot_id']}/status?status={state}", {})
            again = self.post(app, key)
            assert again.status_code == 507
            now = {"bot_id": bot["bot_id"], "transcript_id": None, "meeting_url": URL, "status": state}
            assert again.json() == now
            assert again.headers["content-type"] == "application/json"
        assert (app.runs, self.charges(app)) == (1, charged + 1)

    def test_other_payload(self, app: App):
        """Ignored: the original is replayed."""
        key = new_key()
        first = self.post(app, key)
        for body in (self.other, {"nonsense": 1}, []):
            self.assert_replay(first, self.post(app, key, body))
        assert app.runs == 1

    def test_in_flight(self, app: App):
        """Better than promised: one runs, the others wait and get its replay; who waits for too long gets 409."""
        key = new_key()
        with ThreadPoolExecutor(PARALLEL) as pool, app.world.hold() as gate:
            first = pool.submit(self.post, app, key)
            gate.begun()
            late = self.post(app, key)
            assert (late.status_code, self.problem(late)) == (409, "in-flight")
            waiting = [pool.submit(self.post, app, key) for _ in range(3)]
            gate.go()
            done = first.result(60)
            for one in waiting:
                self.assert_replay(done, one.result(60))
        assert done.status_code == 201
        assert app.runs == 1

    @pytest.mark.parametrize("code", [400, 404, 429, 500, 503, 507])
    def test_failures_kept(self, app: App, code: int):
        """None: a failure before anything was written leaves the key free, and nothing is charged."""
        charged = self.charges(app)
        self.assert_freed(app, code)
        assert self.charges(app) == charged + 1

    def test_what_breaks_leaves_the_key_free(self, app: App):
        """A handler that raises, and a body that does not validate: the same key may be used again."""
        for order, body, code in ((CRASH, self.body, 500), (None, {"nonsense": 1}, 422)):
            key = new_key()
            app.world.order(*([] if order is None else [order]))
            assert self.post(app, key, body).status_code == code
            app.server.renew()
            assert self.record(app, key) is None
            self.assert_once(app, key)

    def test_kept_for(self, app: App):
        """Ever, until the bot is deleted; then the key is free again."""
        key = new_key()
        first = self.post(app, key)
        found = self.record(app, key)
        assert found is not None
        assert found.expires_in is None
        app.age(self.scope(), key, 3650 * DAY)
        self.assert_replay(first, self.post(app, key))
        assert app.runs == 1
        path = f"/bots/{first.json()['bot_id']}"
        assert app.send("DELETE", path, self.headers(None, "bob")).status_code == 204  # not his
        self.assert_replay(first, self.post(app, key))
        assert app.send("DELETE", path, self.headers(None)).status_code == 204
        assert self.record(app, key) is None
        self.assert_once(app, key)
        assert app.runs == 2

    def test_store_down(self, app: App):
        """Fails open: it runs, rather than refuse; nothing is bound meanwhile."""
        key = new_key()
        with app.without_store():
            self.assert_each(app, key, key)
        self.assert_once(app, key)
        assert app.runs == 3

    def test_twenty_retries_at_once(self, app: App):
        """One runs and answers 201, nineteen wait and get 507 of the same bot."""
        key, charged = new_key(), self.charges(app)
        answers = at_once(PARALLEL, lambda: self.post(app, key))
        assert sorted(one.status_code for one in answers) == [201, *[507] * (PARALLEL - 1)]
        assert len({json.loads(one.content)["bot_id"] for one in answers}) == 1
        assert (app.runs, self.charges(app)) == (1, charged + 1)
