"""Voice agents: calls, agents and their tools; the payload is a part of the key. Flask, preset B.

    pip install 'idemstore[flask,postgresql]' gunicorn
    IDEMSTORE_URL=postgresql://localhost/voice gunicorn --workers 2 --threads 8 voice_agents:app

    curl -i localhost:8000/calls -H 'Authorization: Bearer key-of-ann' -H 'X-Idempotency-Key: campaign-7-call-12' \
        -H 'Content-Type: application/json' -d '{"to": "+1 555 0100"}'

Send it again: the same 201, byte for byte, and no second call. Another number with the same key is another call.
"""

import os
import uuid
from datetime import UTC, datetime

from flask import Flask, abort, request
from flask.typing import ResponseReturnValue

import idemstore
from idemstore.http import Request, presets
from idemstore.http.flask import Idempotency

ORGANIZATIONS = {"Bearer key-of-ann": "acme", "Bearer key-of-bob": "globex"}


def organization(request: Request) -> str | None:
    """Whose API key it is; None: nobody's, so no idempotency key is looked at and the application refuses."""
    return ORGANIZATIONS.get(request.header("authorization") or "")


app = Flask(__name__)
store = idemstore.open(os.environ.get("IDEMSTORE_URL", "sqlite:///idempotency.db"))
Idempotency(app, store, presets.voice_agents(organization, "/calls", "/agents", "/agents/{agent}/tools"))


@app.before_request
def sign_in() -> None:
    """Known customers alone."""
    if request.headers.get("Authorization") not in ORGANIZATIONS:
        abort(401)


def dial(number: str) -> None:
    """Call somebody. This is what must not happen twice; here it does nothing."""


def provision(what: str) -> None:
    """Set something up at the carrier. Here it does nothing."""


def created(kind: str) -> ResponseReturnValue:
    """A resource that is new."""
    found = f"{kind}-{uuid.uuid4().hex}"
    return {"id": found, "at": datetime.now(UTC).isoformat()}, 201, {"Location": f"/{kind}s/{found}"}


@app.post("/calls")
def call() -> ResponseReturnValue:
    """Make a call."""
    dial(request.get_json()["to"])
    return created("call")


@app.post("/agents")
def agent() -> ResponseReturnValue:
    """Create an agent."""
    provision("agent")
    return created("agent")


@app.post("/agents/<agent>/tools")
def tool(agent: str) -> ResponseReturnValue:
    """Give an agent a tool."""
    provision(f"tool of {agent}")
    return created("tool")


@app.post("/searches")
def search() -> ResponseReturnValue:
    """Search calls: repeating it does no harm, so it is not listed above."""
    provision("search")
    return {"calls": []}
