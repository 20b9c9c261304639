"""Recordings and transcriptions: strict keys, conflicts, 24 hours. FastAPI, preset C.

    pip install 'idemstore[fastapi,postgresql]' uvicorn
    IDEMSTORE_URL=postgresql://localhost/transcripts uvicorn transcriptions:app

    curl -i localhost:8000/recordings -H 'Authorization: Bearer key-of-ann' -H 'Idempotency-Key: board-2026-11' \
        -H 'Content-Type: application/json' -d '{"url": "https://files.example/board.mp3"}'

Send it again: the same recording. Another file with the same key is a conflict, 409. A 4xx is replayed for 24 hours, a
5xx may be tried again with its key.
"""

import os
import uuid
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

import idemstore
from idemstore.http import Request, presets
from idemstore.http.fastapi import Idempotency

PROJECTS = {"Bearer key-of-ann": "podcast", "Bearer key-of-bob": "archive"}


def project(request: Request) -> str | None:
    """The project of the API key; None: no such key, so no idempotency key is looked at and the application refuses."""
    return PROJECTS.get(request.header("authorization") or "")


def signed_in(authorization: Annotated[str, Header()] = "") -> None:
    """Known projects alone."""
    if authorization not in PROJECTS:
        raise HTTPException(401, "no such API key")


store = idemstore.open_async(os.environ.get("IDEMSTORE_URL", "sqlite:///idempotency.db"))
policy = presets.transcriptions(project, "/recordings", "/recordings/{recording_id}/transcribe")
app = FastAPI(dependencies=[Depends(signed_in)])
Idempotency(store, policy).install(app)


class NewRecording(BaseModel):
    """What a client sends."""

    url: str


class Order(BaseModel):
    """How to transcribe."""

    language: str = "en"


async def fetch(url: str) -> None:
    """Download a recording. This is what must not happen twice; here it does nothing."""


async def transcribe(recording_id: str, language: str) -> None:
    """Order a transcript, which costs money. Here it does nothing."""


@app.post("/recordings", status_code=201)
async def record(new: NewRecording) -> dict:
    """Create a recording."""
    await fetch(new.url)
    return {"recording_id": uuid.uuid4().hex, "url": new.url}


@app.post("/recordings/{recording_id}/transcribe", status_code=202)
async def order(recording_id: str, how: Order) -> dict:
    """Trigger a transcription."""
    await transcribe(recording_id, how.language)
    return {"job_id": uuid.uuid4().hex, "recording_id": recording_id}


@app.post("/searches")
async def search(what: Order) -> list:
    """Neither creates nor triggers anything: it is not listed above."""
    await transcribe("none", what.language)
    return []
