"""Meeting recorder: every PUT, POST and PATCH, every answer kept for an hour. Flask, preset D.

    pip install 'idemstore[flask,redis]' gunicorn
    IDEMSTORE_URL=redis://localhost:6379/0 gunicorn --workers 2 --threads 8 meeting_recorder:app

    curl -i localhost:8000/recorders -H 'Authorization: Bearer key-of-ann' -H 'Idempotency-Key: standup-monday' \
        -H 'Content-Type: application/json' -d '{"meeting": "https://meet.example/standup"}'

Send it again within an hour of its end: the same answer, whatever the payload. That goes for errors, too: after a 507
(no recorder is free) take a new key.
"""

import os
import uuid

from flask import Flask, abort, request
from flask.typing import ResponseReturnValue

import idemstore
from idemstore.http import Request, presets
from idemstore.http.flask import Idempotency

USERS = {"Bearer key-of-ann": "ann", "Bearer key-of-bob": "bob"}


def user(request: Request) -> str | None:
    """Whose API key it is; None: nobody's, so no idempotency key is looked at and the application refuses."""
    return USERS.get(request.header("authorization") or "")


app = Flask(__name__)
store = idemstore.open(os.environ.get("IDEMSTORE_URL", "sqlite:///idempotency.db"))
Idempotency(app, store, presets.meeting_recorder(user))


@app.before_request
def sign_in() -> None:
    """Known users alone."""
    if request.headers.get("Authorization") not in USERS:
        abort(401)


def dispatch(recorder: str) -> None:
    """Send a recorder, or change what it does. This is what must not happen twice; here it does nothing."""


@app.post("/recorders")
def create() -> ResponseReturnValue:
    """Send a recorder to a meeting."""
    recorder = uuid.uuid4().hex
    dispatch(recorder)
    return {"recorder": recorder, "meeting": request.get_json()["meeting"]}, 201


@app.route("/recorders/<recorder>", methods=["PUT", "PATCH", "POST", "DELETE"])
def change(recorder: str) -> ResponseReturnValue:
    """Change a recorder, or call it back."""
    dispatch(recorder)
    return {"recorder": recorder, "revision": uuid.uuid4().hex}
