"""Meeting bots: a retry of "create bot" gets status 507 and the bot as it is now. FastAPI, preset A.

    pip install 'idemstore[fastapi,redis]' uvicorn
    IDEMSTORE_URL=redis://localhost:6379/0 uvicorn meeting_bots:app

    curl -i localhost:8000/bots -H 'Authorization: Bearer key-of-ann' -H 'Idempotency-Key: standup-monday' \
        -H 'Content-Type: application/json' -d '{"meeting_url": "https://meet.example/standup"}'

Send it again: no second bot, no second charge. Then ``curl -X DELETE`` the bot: the key is free again.
"""

import json
import os
import sqlite3
import uuid
from contextlib import closing
from datetime import datetime
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

import idemstore
from idemstore.http import Request, Response, presets
from idemstore.http.fastapi import Idempotency

USERS = {"Bearer key-of-ann": "ann", "Bearer key-of-bob": "bob"}
DATABASE = os.environ.get("DATABASE", "meeting_bots.db")


def query(statement: str, *values: object) -> list[tuple[str, ...]]:
    """Run one statement on the service's own database."""
    with closing(sqlite3.connect(DATABASE, isolation_level=None)) as database:
        return database.execute(statement, values).fetchall()


query("CREATE TABLE IF NOT EXISTS bots (id TEXT, owner TEXT, url TEXT, status TEXT, key TEXT)")
query("CREATE TABLE IF NOT EXISTS charges (owner TEXT, bot TEXT)")


def owner(request: Request) -> str | None:
    """Who owns the API key; None: nobody, so no idempotency key is looked at and the application refuses."""
    return USERS.get(request.header("authorization") or "")


async def as_it_is_now(stored: Response, request: Request) -> Response:
    """The replay: the bot of the first response with its current status."""
    bot = json.loads(stored.body or b"{}")
    found = query("SELECT status FROM bots WHERE id = ?", bot["bot_id"])
    status = found[0][0] if found else "deleted"
    now = {"bot_id": bot["bot_id"], "transcript_id": None, "meeting_url": bot["meeting_url"], "status": status}
    return stored._replace(body=json.dumps(now).encode())


store = idemstore.open_async(os.environ.get("IDEMSTORE_URL", "sqlite:///idempotency.db"))
idempotency = Idempotency(store, presets.meeting_bots(owner, "/bots", as_it_is_now))
app = FastAPI()
idempotency.install(app)


def signed_in(authorization: Annotated[str, Header()] = "") -> str:
    """The user, or 401."""
    if authorization not in USERS:
        raise HTTPException(401, "no such API key")
    return USERS[authorization]


User = Annotated[str, Depends(signed_in)]


class NewBot(BaseModel):
    """What a client sends. With ``join_at`` the bot is scheduled; its key is kept until then, and after."""

    meeting_url: str
    join_at: datetime | None = None


def join_meeting(bot_id: str, meeting_url: str) -> None:
    """Send the bot into the meeting. This is what must not happen twice; here it does nothing."""


@app.post("/bots", status_code=201)
def create(new: NewBot, user: User, operation: Annotated[idemstore.AsyncOperation | None, idempotency.on()]) -> dict:
    """Create a bot, and charge for it."""
    bot_id, status = uuid.uuid4().hex, "scheduled" if new.join_at else "joining"
    join_meeting(bot_id, new.meeting_url)
    key = json.dumps(operation.key) if operation else None  # to free it with the bot
    query("INSERT INTO bots VALUES (?, ?, ?, ?, ?)", bot_id, user, new.meeting_url, status, key)
    query("INSERT INTO charges VALUES (?, ?)", user, bot_id)
    return {"bot_id": bot_id, "transcript_id": uuid.uuid4().hex, "meeting_url": new.meeting_url, "status": status}


@app.put("/bots/{bot_id}/status", status_code=204)
def report(bot_id: str, status: str) -> None:
    """The meeting platform tells what became of a bot."""
    query("UPDATE bots SET status = ? WHERE id = ?", status, bot_id)


@app.delete("/bots/{bot_id}", status_code=204)
async def delete(bot_id: str, user: User) -> None:
    """Delete a bot; its key is free again."""
    for (key,) in query("SELECT key FROM bots WHERE id = ? AND owner = ?", bot_id, user):
        if key is not None:
            await store.forget(tuple(json.loads(key)))
        query("DELETE FROM bots WHERE id = ?", bot_id)


@app.get("/charges")
def charges(user: User) -> int:
    """How many bots were charged for."""
    return len(query("SELECT bot FROM charges WHERE owner = ?", user))
