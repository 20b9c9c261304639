"""Orders, by the book: the IETF's draft of Idempotency-Key, with its choices published. FastAPI, preset F.

    pip install 'idemstore[fastapi]' uvicorn
    IDEMSTORE_URL=sqlite:///orders.db uvicorn orders:app

    curl -i localhost:8000/orders -H 'Authorization: Bearer key-of-ann' -H 'Idempotency-Key: "8e03978e-40d5-43dd"' \
        -H 'Content-Type: application/json' -d '{"item": "desk"}'

The key is a string in double quotes. Without it: 400. With another payload: 422. While the first request runs: 409.
What the server chooses is in the OpenAPI document, http://localhost:8000/docs.
"""

import os
import uuid
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

import idemstore
from idemstore.http import Request, presets
from idemstore.http.fastapi import Idempotency

ACCOUNTS = {"Bearer key-of-ann": "acme", "Bearer key-of-bob": "globex"}
PUBLISHED = """POST and PATCH of orders take an `Idempotency-Key`: a string of 1 to 255 characters in double quotes,
such as a UUID, unique within your account. Successes and most 4xx are replayed for 24 hours; after 408, 409, 423, 425,
429 and 5xx try again with the same key."""


def account(request: Request) -> str | None:
    """Whose API key it is; None: nobody's, so no idempotency key is looked at and the application refuses."""
    return ACCOUNTS.get(request.header("authorization") or "")


def signed_in(authorization: Annotated[str, Header()] = "") -> None:
    """Known accounts alone."""
    if authorization not in ACCOUNTS:
        raise HTTPException(401, "no such API key")


store = idemstore.open_async(os.environ.get("IDEMSTORE_URL", "sqlite:///orders.db"))
idempotency = Idempotency(store, presets.ietf(account))
app = FastAPI(title="Orders", description=PUBLISHED, dependencies=[Depends(signed_in)])
idempotency.install(app)


class NewOrder(BaseModel):
    """What a client sends."""

    item: str


def buy(item: str) -> None:
    """Order something. This is what must not happen twice; here it does nothing."""


@app.post("/orders", status_code=201)
def order(new: NewOrder) -> dict:
    """Place an order."""
    buy(new.item)
    return {"order_id": uuid.uuid4().hex, "item": new.item}


@app.patch("/orders/{order_id}")
@app.put("/orders/{order_id}")
def change(order_id: str, new: NewOrder) -> dict:
    """Change an order. PUT is idempotent by itself, so the preset leaves it alone."""
    buy(new.item)
    return {"order_id": order_id, "item": new.item, "revision": uuid.uuid4().hex}


@app.post("/carts", status_code=201, dependencies=[idempotency.on(required=False)])
def cart(new: NewOrder) -> dict:
    """Fill a cart: here the key may be missing."""
    buy(new.item)
    return {"cart_id": uuid.uuid4().hex, "item": new.item}
