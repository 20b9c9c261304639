"""Payments as Stripe takes them: every POST, errors kept once execution has begun. Flask, preset E.

    pip install 'idemstore[flask]' gunicorn
    IDEMSTORE_URL=sqlite:///payments.db gunicorn --workers 2 --threads 8 payments:app

    curl -i localhost:8000/charges -H 'Authorization: Bearer key-of-ann' -H 'Idempotency-Key: order-4711' \
        -H 'Content-Type: application/json' -d '{"amount": 1000}'

Send it again: the same charge, and ``Idempotent-Replayed: true``. What was refused before anything was charged (no
amount, another request with the key still runs) is not kept.
"""

import dataclasses
import json
import os
import uuid

from flask import Flask, abort, request
from flask.typing import ResponseReturnValue

import idemstore
from idemstore.http import Request, Response, presets
from idemstore.http.flask import Idempotency

ACCOUNTS = {"Bearer key-of-ann": "acct_ann", "Bearer key-of-bob": "acct_bob"}


def account(request: Request) -> str | None:
    """Whose API key it is; None: nobody's, so no idempotency key is looked at and the application refuses."""
    return ACCOUNTS.get(request.header("authorization") or "")


def in_our_words(problem: Response, request: Request) -> Response:
    """This API's own error body, made of the problem document."""
    said = json.loads(problem.body or b"{}")
    body = {"error": {"type": "idempotency_error", "code": said["type"].rpartition("/")[2], "message": said["detail"]}}
    kept = tuple(pair for pair in problem.headers if pair[0] != "content-type")
    return Response(problem.status, (("content-type", "application/json"), *kept), json.dumps(body).encode())


app = Flask(__name__)
store = idemstore.open(os.environ.get("IDEMSTORE_URL", "sqlite:///payments.db"))
Idempotency(app, store, dataclasses.replace(presets.stripe(account), reshape=in_our_words))


@app.before_request
def sign_in() -> None:
    """Known accounts alone."""
    if request.headers.get("Authorization") not in ACCOUNTS:
        abort(401)


def move_money(amount: int) -> None:
    """Charge a card. This is what must not happen twice; here it does nothing."""


@app.post("/charges")
def charge() -> ResponseReturnValue:
    """Charge a card."""
    amount = request.get_json().get("amount")
    if not isinstance(amount, int) or amount <= 0:
        return {"error": {"type": "invalid_request_error", "message": "amount is a positive number of cents"}}, 400
    move_money(amount)
    return {"id": f"ch_{uuid.uuid4().hex}", "amount": amount}


@app.post("/refunds")
def refund() -> ResponseReturnValue:
    """Give money back."""
    move_money(-request.get_json()["amount"])
    return {"id": f"re_{uuid.uuid4().hex}"}


@app.put("/charges/<charge>")
def describe(charge: str) -> ResponseReturnValue:
    """Set what a charge was for. Repeating it does no harm, and no key is looked at."""
    move_money(0)
    return {"id": charge, "for": request.get_json()["for"]}
