"""A queue worker: it does the job in a file, and removes the file when it is done.

    python e2e_worker.py FILE URL

The key is made once, saved with the job before it is used, and sent with every attempt.
"""

import json
import os
import sys
from pathlib import Path

import httpx
import tenacity
from e2e_outside import ask

from idemstore.http.client import KeyHeader, job_key, sending
from idemstore.http.httpx import IdempotencyTransport

message, url = Path(sys.argv[1]), sys.argv[2]
job = json.loads(message.read_text())


def save() -> None:
    """The job, whole or not at all."""
    message.with_suffix(".new").write_text(json.dumps(job))
    os.replace(message.with_suffix(".new"), message)


class Busy(Exception):
    """The first attempt still runs, or its owner has just died."""


@tenacity.retry(
    retry=tenacity.retry_if_exception_type((httpx.TransportError, Busy)),
    stop=tenacity.stop_after_delay(30),
    wait=tenacity.wait_fixed(0.05),
)
def place_order(http: httpx.Client) -> httpx.Response:
    """One attempt."""
    answer = http.post(url, json=job["order"], headers={"Authorization": "Bearer key-of-ann"})
    ask("attempt", answer.status_code)
    if answer.status_code == 409:
        raise Busy
    return answer.raise_for_status()


key = job_key(job, "order_key", save)
header = KeyHeader(quoted=True, required=True)
with httpx.Client(transport=IdempotencyTransport(httpx.HTTPTransport(), header)) as http, sending(key):
    answer = place_order(http)
ask("acknowledge", key, answer.text)
message.unlink()
