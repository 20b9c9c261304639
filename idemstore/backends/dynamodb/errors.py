"""What botocore raises, in our words: the one place where the drivers' errors are translated. Imports botocore.

Server messages are repeated only where they help and hold no secret: a refused signature's message quotes the request
with its session token, so it is not.
"""

from collections.abc import Mapping
from typing import Final

from botocore import exceptions as aws  # type: ignore[import-untyped]

from idemstore.backends.dynamodb import schema
from idemstore.backends.dynamodb.clock import ServerClock, local_clock, parse_date
from idemstore.backends.dynamodb.messages import MISSING
from idemstore.errors import (
    AccessDenied,
    ConfigurationError,
    IdemstoreError,
    ResultTooLarge,
    SchemaError,
    StoreMisbehaved,
    StoreTimeout,
    StoreUnavailable,
    Throttled,
)

ClientError = aws.ClientError
BotoCoreError = aws.BotoCoreError

THROTTLED: Final = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
    }
)
DENIED: Final = frozenset(
    {
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
WRONG_KEY: Final = (
    "key element does not match",
    "Type mismatch for key",
    "Missing the key",
    "number of conditions on the keys",
    "required keys was not given a value",
)
"""What DynamoDB says of a key that is not the table's; the code alone says only that something is invalid."""
ACTIONS: Final = (
    "dynamodb:UpdateItem, GetItem, DeleteItem, BatchGetItem, BatchWriteItem and Scan on the table (migrate: also "
    "CreateTable, DescribeTable, DescribeTimeToLive and UpdateTimeToLive)"
)

_UNSIGNED: Final = (aws.NoCredentialsError, aws.PartialCredentialsError)
_CREDENTIALS: Final = (
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.UnauthorizedSSOTokenError,
    aws.SSOTokenLoadError,
    aws.MetadataRetrievalError,
)
_SETTINGS: Final = (
    aws.ProfileNotFound,
    aws.NoRegionError,
    aws.InvalidRegionError,
    aws.ConfigParseError,
    aws.ConfigNotFound,
    aws.UnknownCredentialError,
    aws.InvalidConfigError,
    aws.InfiniteLoopConfigError,
)
_NETWORK: Final = (aws.HTTPClientError, aws.ConnectionError, aws.ChecksumError)


def code_of(error: aws.ClientError) -> str:
    """The server's error code."""
    return str(_part(error, "Error").get("Code", ""))


def body_of(error: aws.ClientError) -> Mapping[str, object]:
    """The whole error response."""
    response: Mapping[str, object] = error.response
    return response


def _part(error: aws.ClientError, name: str) -> Mapping[str, object]:
    """A part of the error response."""
    part = body_of(error).get(name)
    return part if isinstance(part, Mapping) else {}


def learn(clock: ServerClock, body: Mapping[str, object], sent: int) -> None:
    """Tell the clock what a response says about the server's time."""
    metadata = body.get("ResponseMetadata")
    headers = metadata.get("HTTPHeaders") if isinstance(metadata, Mapping) else None
    header = headers.get("date") if isinstance(headers, Mapping) else None
    date = parse_date(header) if isinstance(header, str) else None
    if date is not None:
        clock.observe(date, sent, local_clock())


def timed_out(timeout: float) -> StoreTimeout:
    """The error where the time of a call is up."""
    return StoreTimeout(f"DynamoDB did not answer within {timeout:.3g} s: repeating the call is safe")


def translate(error: aws.ClientError | aws.BotoCoreError, table: str, timeout: float) -> IdemstoreError:
    """Our error for one of botocore's."""
    if isinstance(error, aws.ClientError):
        return _answered(error, table)
    if isinstance(error, aws.ConnectTimeoutError | aws.ReadTimeoutError):
        return timed_out(timeout)
    if isinstance(error, _UNSIGNED):
        return AccessDenied(
            "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile in the "
            "store URL (?profile=), or give the machine a role"
        )
    if isinstance(error, _CREDENTIALS):
        return AccessDenied(
            f"AWS credentials could not be had ({type(error).__name__}): check profile, role and log-in"
        )
    if isinstance(error, _SETTINGS):
        return ConfigurationError(f"the AWS configuration does not work: {error}")
    if isinstance(error, _NETWORK):
        return StoreUnavailable(
            f"DynamoDB cannot be reached ({type(error).__name__}): check endpoint and network, then repeat the call"
        )
    return StoreMisbehaved(f"botocore cannot read DynamoDB's answer or send the call ({type(error).__name__})")


def _answered(error: aws.ClientError, table: str) -> IdemstoreError:
    """Our error for an error response."""
    code, message = code_of(error), str(_part(error, "Error").get("Message", ""))
    status = _part(error, "ResponseMetadata").get("HTTPStatusCode")
    if code in THROTTLED:
        return Throttled(
            f"DynamoDB throttles table {table!r} ({code}): repeat the call after a pause, or raise its limits"
        )
    if code == "AccessDeniedException":
        return AccessDenied(f"DynamoDB refuses the call: {message} (idemstore needs {ACTIONS})")
    if code in DENIED:
        return AccessDenied(
            f"DynamoDB refuses the credentials ({code}): check that they are valid and not expired, and that this "
            "machine's clock is right (AWS refuses signatures that are minutes off)"
        )
    if code == MISSING:
        return SchemaError(
            f"table {table!r} does not exist in this region and account: create it with 'idemstore migrate URL'"
        )
    if code == "ValidationException":
        return _invalid(message, table)
    if isinstance(status, int) and status >= 500:
        return StoreUnavailable(f"DynamoDB has failed ({code or status}): repeat the call")
    return StoreMisbehaved(f"DynamoDB answered {code or status!r} to a call that it should take")


def _invalid(message: str, table: str) -> IdemstoreError:
    """A refused request: the table has another key, or an item has outgrown its limit. AWS tells them by text only."""
    if any(hint in message for hint in WRONG_KEY):
        return schema.wrong_shape(table)
    if "Item size" in message:
        return ResultTooLarge("the record has outgrown DynamoDB's limit of 400 KB for an item: nothing was stored")
    return StoreMisbehaved(f"DynamoDB calls the request invalid: {message}")
