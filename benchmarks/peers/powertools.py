"""aws-lambda-powertools, as the docstrings of its idempotency utility show it (its README shows no code of it).

``@idempotent_function(data_keyword_argument=..., config=IdempotencyConfig(event_key_jmespath=...))`` over
``CachePersistenceLayer(client=redis.Redis(...))`` and ``DynamoDBPersistenceLayer(table_name=...)``, whose client takes
server and credentials from the environment.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import redis
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.idempotency.persistence.base import BasePersistenceLayer
from aws_lambda_powertools.utilities.idempotency.persistence.cache import CachePersistenceLayer

from benchmarks.peers.contender import Call, Job, Result
from idemstore.testing.families.dynamodb import ACCESS, SECRET, connect
from idemstore.url import parse_url

TABLE = "powertools"


def guarded(layer: BasePersistenceLayer, job: Job) -> Call:
    """The docstring's ``process_order``."""
    config = IdempotencyConfig(event_key_jmespath="order_id")

    @idempotent_function(data_keyword_argument="order", config=config, persistence_store=layer)
    def process_order(customer_id: str, order: dict[str, str]) -> Result:
        return job.run(order["order_id"])

    return lambda key: process_order("customer", order={"order_id": key})


@contextmanager
def on_redis(url: str, job: Job) -> Iterator[Call]:
    """On Redis."""
    address = urlsplit(url)
    with redis.Redis(host=address.hostname or "", port=address.port or 0, decode_responses=True) as client:
        yield guarded(CachePersistenceLayer(client=client), job)


@contextmanager
def on_dynamodb(url: str, job: Job) -> Iterator[Call]:
    """On DynamoDB; the table as its documentation asks for: partition key ``id``."""
    parsed = parse_url(url)
    host = parsed.hosts[0]
    admin = connect(url)
    admin.create_table(
        TableName=(table := f"{TABLE}-{os.urandom(4).hex()}"),
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    os.environ |= {
        "AWS_ENDPOINT_URL_DYNAMODB": f"http://{host.name}:{host.port}",
        "AWS_DEFAULT_REGION": dict(parsed.query)["region"],
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    try:
        yield guarded(DynamoDBPersistenceLayer(table_name=table), job)
    finally:
        admin.delete_table(TableName=table)
