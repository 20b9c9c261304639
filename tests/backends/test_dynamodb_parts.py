"""The pure parts of the DynamoDB family: URLs, items, divided results, translated errors. No server."""

import pytest
from botocore import exceptions as aws
from hypothesis import given
from hypothesis import strategies as st

import idemstore
from idemstore import errors
from idemstore.backends.dynamodb import chunks, expressions, schema
from idemstore.backends.dynamodb.clock import Reading
from idemstore.backends.dynamodb.dialect import CHECKPOINT, KEY_BYTES, WHOLE, DynamoDBDialect
from idemstore.backends.dynamodb.errors import translate
from idemstore.backends.dynamodb.messages import CONFLICT, REFUSED, Reply, binary, number, text
from idemstore.backends.dynamodb.record import NEVER, TTL_SLACK, decode, ttl
from idemstore.backends.dynamodb.settings import read_settings
from idemstore.backends.dynamodb.wire import NotHTTP, Response
from idemstore.exchange import Exchange
from idemstore.machine import Claim, Complete, Fail, Release, Renew, State
from idemstore.outcomes import Claimed, Completed
from idemstore.url import parse_url

NOW = Reading(1_000_000_000_000, 1_000_002_000_000)
SECOND = 1_000_000

# -- URLs -------------------------------------------------------------------------------------------------------------

ENDPOINTS = {
    "dynamodb:///idem?region=eu-central-1": None,
    "dynamodb://vpce-1.example.com/idem?region=eu-central-1": "https://vpce-1.example.com",
    "dynamodb://[::1]:8000/idem": "https://[::1]:8000",
    "dynamodb+http://127.0.0.1:8000/idem": "http://127.0.0.1:8000",
    "dynamodb+boto3:///idem?endpoint=http://127.0.0.1:8000": "http://127.0.0.1:8000",
    "dynamodb+http:///idem?endpoint=http://127.0.0.1:8000": "http://127.0.0.1:8000",
}


@pytest.mark.parametrize(("url", "endpoint"), ENDPOINTS.items())
def test_endpoint(url, endpoint):
    """From the host, from the option, or AWS's own."""
    _, settings = read_settings(parse_url(url), "sync")
    assert (settings.endpoint, settings.table) == (endpoint, "idem")


BAD_URLS = [
    "dynamodb://",
    "dynamodb://idem",
    "dynamodb:///",
    "dynamodb:///id",
    "dynamodb:///a/b",
    "dynamodb:///tab%20le",
    "dynamodb:///tablé",
    "dynamodb://one,two/idem",
    "dynamodb+http:///idem",
    "dynamodb://host/idem?endpoint=http://other",
    "dynamodb:///idem?endpoint=host:8000",
    "dynamodb:///idem?endpoint=ftp://host",
    "dynamodb:///idem?endpoint=http://user:secret-word@host",
    "dynamodb://only-a-user@/idem",
    "dynamodb://:secret-word@/idem",
    "dynamodb:///idem?regoin=x",
    "dynamodb:///idem?margin=-1",
    "dynamodb:///idem?in_place=500000",
    "dynamodb:///idem?connections=0",
]


@pytest.mark.parametrize("mode", [idemstore.open, idemstore.open_async])
@pytest.mark.parametrize("url", BAD_URLS)
def test_bad_urls(url, mode):
    """Each is refused by open, in both modes, and no credential is repeated."""
    with pytest.raises((errors.InvalidUrl, errors.UnknownOption)) as caught:
        mode(url)
    assert "secret-word" not in str(caught.value)


def test_mode_of_a_driver():
    """A driver named in the scheme has one mode, and the error names the other one."""
    with pytest.raises(errors.UnsupportedMode, match="aiobotocore"):
        idemstore.open_async("dynamodb+boto3:///idem?region=eu-central-1")
    with pytest.raises(errors.UnsupportedMode, match="boto3"):
        idemstore.open("dynamodb+aiobotocore:///idem?region=eu-central-1")


def test_credentials_are_not_printed():
    """Neither half of the credentials, nor any option, shows in a repr or name."""
    url = "dynamodb+http://AKIASHOWN:secret-word@127.0.0.1:1/idem?region=eu-central-1&profile=hidden-profile"
    store = idemstore.open(url.replace("&profile=hidden-profile", ""))
    shown = f"{store!r} {store.name} {read_settings(parse_url(url), 'sync')[1]!r}"
    assert "AKIASHOWN" not in shown
    assert "secret-word" not in shown
    assert "hidden-profile" not in repr(store)


def test_profile_and_region_are_checked_by_open(monkeypatch, tmp_path):
    """A profile that is not there and a region that nobody names are errors of open; a profile may bring its region."""
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text("[profile here]\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(errors.ConfigurationError, match="no AWS region"):
        idemstore.open("dynamodb:///idem")
    with pytest.raises(errors.ConfigurationError, match="'absent'"):
        idemstore.open("dynamodb:///idem?profile=absent")
    idemstore.open("dynamodb:///idem?profile=here").close()
    (tmp_path / "config").write_text("no ini file")
    with pytest.raises(errors.ConfigurationError, match="cannot be read"):
        idemstore.open("dynamodb:///idem")


# -- items ------------------------------------------------------------------------------------------------------------

COMPLETED = {
    "id": text("key"),
    "record_state": text("completed"),
    "claim_token": text("t"),
    "fence": number(5),
    "attempt": number(1),
    "expires_at": number(NOW.late + 60 * SECOND),
    "record_result": binary(b"r"),
}
RUNNING = {
    **COMPLETED,
    "record_state": text("in-flight"),
    "lease_until": number(NOW.late + 30 * SECOND),
}


def test_decode():
    """A record comes back as it was; what is not ours is left alone; an end beyond all ends is none."""
    record = decode({**COMPLETED, "note": text("theirs")}).record
    assert (record.state, record.token, record.result) == (State.COMPLETED, "t", b"r")
    assert decode({**COMPLETED, "expires_at": number(NEVER)}).record.expires_at is None
    assert decode({**RUNNING, "expires_at": number(NEVER + NOW.late)}).record.expires_at is None


DAMAGE = [
    {"record_state": text("unknown")},
    {"record_state": number(1)},
    {"claim_token": binary(b"t")},
    {"fence": text("5")},
    {"fence": number(-5)},
    {"fence": {"N": "1.5"}},
    {"attempt": {"NULL": True}},
    {"expires_at": {"N": "1e3"}},
    {"record_result": {"S": "no pointer"}},
    {"record_result": {"S": "name.0.0.digest"}},
    {"record_result": number(1)},
    {"fingerprint": text("f")},
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_items(damage):
    """Whatever is wrong with one of our attributes, the record is corrupt, never absent."""
    with pytest.raises(errors.CorruptRecord):
        decode({**COMPLETED, **damage})


@pytest.mark.parametrize("missing", sorted(COMPLETED.keys() - {"id"}))
def test_items_that_lack_something(missing):
    """So is one that lacks an attribute that its state needs."""
    with pytest.raises(errors.CorruptRecord):
        decode({name: attr for name, attr in COMPLETED.items() if name != missing})


def test_ttl_lies_behind_the_end():
    """In whole seconds, rounded up, and hours behind: DynamoDB's own deletion decides nothing."""
    assert ttl(10 * SECOND + 1) == 11 + TTL_SLACK


# -- expressions ------------------------------------------------------------------------------------------------------


def test_times_are_written_late_and_judged_early():
    """Every time that is stored counts from the late end of the clock, every comparison uses the early one."""
    params = expressions.start("t", "k", Claim(None, "t", 30 * SECOND, 60 * SECOND), NOW)
    values = params["ExpressionAttributeValues"]
    assert values[":early"] == number(NOW.early)
    assert values[":late"] == number(NOW.late)
    assert values[":lease"] == number(NOW.late + 30 * SECOND)
    assert values[":ends"] == number(NOW.late + 90 * SECOND)
    done = expressions.complete("t", "k", "t", binary(b""), 60 * SECOND, NOW)["ExpressionAttributeValues"]
    assert (done[":early"], done[":ends"]) == (number(NOW.early), number(NOW.late + 60 * SECOND))


def test_user_data_is_only_ever_a_value():
    """Keys, tokens, fingerprints, results and checkpoints stand in no expression."""
    odd = "attribute_exists(id) OR #x = :y"
    for params in (
        expressions.start("t", odd, Claim(odd.encode(), odd, SECOND, SECOND), NOW),
        expressions.complete("t", odd, odd, binary(odd.encode()), None, NOW),
        expressions.fail("t", odd, odd, binary(odd.encode()), None, 0, NOW),
        expressions.renew("t", odd, odd, SECOND, odd.encode(), NOW),
        expressions.release("t", odd, odd, NOW),
    ):
        assert odd not in str(params["UpdateExpression"]) + str(params["ConditionExpression"])


def test_at_once_is_long_past():
    """A failure that may be retried at once is retryable by every client's clock."""
    values = expressions.fail("t", "k", "t", binary(b""), None, 0, NOW)["ExpressionAttributeValues"]
    assert int(values[":retry"]["N"]) < NOW.early - 50 * SECOND


# -- the dialect ------------------------------------------------------------------------------------------------------

DIALECT = DynamoDBDialect("table", 4 * 2**20)


def reply(code: str, item: object = None) -> Reply:
    """What a driver would bring."""
    return Reply(code, {} if item is None else {"Item": item}, NOW, 5.0)


def test_refused_claim_of_a_vanished_item_asks_again():
    """The condition failed, but nothing came back: the item went between, and the claim is tried again."""
    event = Claim(None, "mine", SECOND, SECOND)
    again = DIALECT.claim("k", event).parse(reply(REFUSED))
    assert isinstance(again, Exchange)
    assert again.parse(reply("")) == Claimed("mine", NOW.late, 1)


def test_conflicting_transaction_is_waited_for():
    """An item that a transaction holds is no answer: the same request follows, after a pause."""
    first = DIALECT.complete("k", Complete("t", b"r", None))
    again = first.parse(reply(CONFLICT))
    assert isinstance(again, Exchange)
    assert again.request.delay > 0
    assert again.request.build(NOW) == first.request.build(NOW)


def test_takeover_writes_on_the_version_that_was_read():
    """A lapsed record is seized under its own fence, state and end; a fence ahead of the clock still grows."""
    lapsed = {**RUNNING, "lease_until": number(5), "fence": number(NOW.late + 7), "checkpoint": binary(b"half")}
    event = Claim(b"f", "mine", SECOND, SECOND)
    seize = DIALECT.claim("k", event).parse(reply(REFUSED, lapsed))
    assert isinstance(seize, Exchange)
    params = seize.request.build(NOW)
    assert params["ConditionExpression"] == expressions.UNCHANGED
    assert params["ExpressionAttributeValues"][":seen_fence"] == lapsed["fence"]
    assert params["ExpressionAttributeValues"][":late"] == number(NOW.late + 8)
    assert seize.parse(reply("")) == Claimed("mine", NOW.late + 8, 2, b"half")


def test_impossible_refusal_is_reported():
    """A server that refuses an owner and sends back an item that is its own misbehaves, and nobody guesses."""
    for event in (Complete("t", b"r", None), Fail("t", b"r", None), Renew("t", SECOND), Release("t")):
        call = getattr(DIALECT, type(event).__name__.lower())
        with pytest.raises(errors.StoreMisbehaved):
            call("k", event).parse(reply(REFUSED, RUNNING))


def test_checkpoint_limit():
    """A checkpoint lies in the item itself, so its limit is lower than a result's."""
    DIALECT.renew("k", Renew("t", SECOND, bytes(CHECKPOINT)))
    with pytest.raises(errors.ResultTooLarge, match=str(CHECKPOINT)):
        DIALECT.renew("k", Renew("t", SECOND, bytes(CHECKPOINT + 1)))


def test_transaction_limit():
    """A result inside a transaction must fit into its record."""
    DIALECT.transact("k", Complete("t", bytes(WHOLE), None), NOW)
    with pytest.raises(errors.ResultTooLarge, match=str(WHOLE)):
        DIALECT.transact("k", Complete("t", bytes(WHOLE + 1), None), NOW)


def test_every_read_is_strongly_consistent():
    """Looking, asking for the clock, scanning, reading parts: nothing is answered from a replica that lags behind."""
    parts, _ = chunks.divide("k", "t", None, b"x" * 10)
    divided = {**COMPLETED, "record_result": text(parts.pointer())}
    load = DIALECT.claim("k", Claim(None, "other", SECOND, SECOND)).parse(reply(REFUSED, divided))
    reads = [exchange.request.build(NOW) for exchange in (DIALECT.get("k"), DIALECT.ping(), DIALECT.purge(1))]
    reads.append(load.request.build(NOW)["RequestItems"]["table"])
    assert [read["ConsistentRead"] for read in reads] == [True] * 4


# -- divided results --------------------------------------------------------------------------------------------------


@given(size=st.integers(1, 3 * chunks.PART_BYTES + 1), seed=st.binary(min_size=1, max_size=8))
def test_divided_results_come_back(size, seed):
    """In whatever order the parts are read."""
    data = (seed * size)[:size]
    parts, pieces = chunks.divide("key", "token", None, data)
    assert max(map(len, pieces)) <= chunks.PART_BYTES
    items = [
        {"id": text(name), chunks.DATA: binary(piece)} for name, piece in zip(parts.ids("key"), pieces, strict=True)
    ]
    again = chunks.read_pointer(parts.pointer())
    assert again == parts
    assert chunks.join("key", again, reversed(items)) == data
    for changed in (items[1:], [*items[:-1], {**items[-1], chunks.DATA: binary(b"x")}]):
        if changed != items:
            with pytest.raises(errors.CorruptRecord):
                chunks.join("key", parts, changed)


@pytest.mark.parametrize("number", ["\xb2", "\u0663", "", "-1", "1_0", " 1", "9" * 5000])
def test_pointers_have_plain_numbers(number):
    """Digits of other scripts and thousands of them are a damaged record, not a ``ValueError``."""
    for pointer in (f"name.{number}.5.digest", f"name.5.{number}.digest"):
        with pytest.raises(errors.CorruptRecord):
            chunks.read_pointer(pointer)


def test_parts_never_share_a_name():
    """Another token, result, retention or key: other parts. The same completion: the same parts."""
    names = {
        chunks.divide(*arguments)[0].name
        for arguments in (
            ("key", "token", None, b"data"),
            ("key", "token", None, b"dat"),
            ("key", "token", 5, b"data"),
            ("key", "other", None, b"data"),
            ("yek", "token", None, b"data"),
        )
    }
    assert len(names) == 5
    assert chunks.divide("key", "token", None, b"data") == chunks.divide("key", "token", None, b"data")


def test_id_of_a_part_fits():
    """The longest key leaves room for the id of the last part of the largest result; no key is the id of a part."""
    parts = chunks.Parts("f" * 32, 99_999, 1, "d")
    assert len(parts.ids("k" * KEY_BYTES)[-1]) <= 2048
    assert chunks.owner({"id": text(parts.ids("a%25b")[0]), chunks.OWNER: text("a%25b")}) == ("a%25b", "f" * 32)
    assert chunks.owner({"id": text("a%part:x.0"), chunks.OWNER: text("other")}) is None
    assert chunks.owner({"id": text("key")}) is None


# -- responses on the wire --------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
WHOLE_RESPONSES = {
    "length": (HEAD + b"Content-Length: 5\r\n\r\nhello", True),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nX: y\r\n\r\n", True),
    "closing": (HEAD + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello", False),
    "old": (HEAD.replace(b"1.1", b"1.0") + b"Content-Length: 5\r\n\r\nhello", False),
}


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize("name", WHOLE_RESPONSES)
def test_response_in_pieces(name, step):
    """However its bytes come, a response is whole at its last byte and not before."""
    data, keeps = WHOLE_RESPONSES[name]
    response = Response()
    whole = [response.feed(data[at : at + step]) for at in range(0, len(data), step)]
    assert whole == [False] * (len(whole) - 1) + [True]
    assert (response.status, response.body, response.keeps) == (200, b"hello", keeps)
    assert response.headers["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"


def test_large_response_at_once():
    """The limit is the head's, however much of the body comes with it."""
    response = Response()
    assert response.feed(HEAD + b"Content-Length: 3000000\r\n\r\n" + bytes(3_000_000))
    assert response.body == bytes(3_000_000)


@pytest.mark.parametrize("name", WHOLE_RESPONSES)
def test_more_than_a_response(name):
    """What stands behind a response in the same packet must not be lost or read as the next one: no reuse."""
    response = Response()
    assert response.feed(WHOLE_RESPONSES[name][0] + HEAD)
    assert (response.body, response.keeps) == (b"hello", False)


@pytest.mark.parametrize("name", WHOLE_RESPONSES)
def test_interim_response(name):
    """An interim response (a proxy's 100 or 103) is not the response."""
    data, keeps = WHOLE_RESPONSES[name]
    response = Response()
    assert not response.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early")
    assert response.feed(b" Hints\r\nlink: x\r\n\r\n" + data)
    assert (response.status, response.body, response.keeps) == (200, b"hello", keeps)


def test_response_that_ends_with_its_connection():
    """Without a length the end of the connection is the body's; with one it comes too early."""
    open_ended, cut = Response(), Response()
    assert not open_ended.feed(HEAD + b"\r\nhello")
    assert (open_ended.ends(), open_ended.body, open_ended.keeps) == (True, b"hello", False)
    assert not cut.feed(HEAD + b"Content-Length: 6\r\n\r\nhello")
    assert not cut.ends()
    assert not Response().ends()


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"x",
        b"HTTP/1.1 two OK\r\n\r\n",
        HEAD + b"Content-Length: five\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
    ],
)
def test_what_is_no_response(data):
    """Is refused, never waited for."""
    with pytest.raises(NotHTTP):
        Response().feed(data)


# -- schema and errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "types"),
    [
        ([("id", "HASH"), ("sort", "RANGE")], [("id", "S"), ("sort", "S")]),
        ([("pk", "HASH")], [("pk", "S")]),
        ([("id", "HASH")], [("id", "N")]),
        ([], []),
    ],
)
def test_tables_of_another_shape(keys, types):
    """A sort key, another name or another type: not our table."""
    described = {
        "KeySchema": [{"AttributeName": name, "KeyType": kind} for name, kind in keys],
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": kind} for name, kind in types],
    }
    with pytest.raises(errors.SchemaError, match="another key"):
        schema.check("table", described)


def test_migrate_waits_until_the_table_is_active():
    """It is looked for, created on demand, looked at again with pauses while it is being made, then gets its TTL."""
    described = {"KeySchema": schema.SHAPE, "AttributeDefinitions": schema.TYPES}

    def table(status: str) -> Reply:
        return Reply("", {"Table": {**described, "TableStatus": status}}, NOW, 5.0)

    create = DIALECT.migrate().parse(Reply("ResourceNotFoundException", {}, NOW, 5.0))
    assert create.request.operation == "create_table"
    assert create.request.build(NOW)["BillingMode"] == "PAY_PER_REQUEST"
    look = create.parse(Reply("", {}, NOW, 5.0))
    for _ in range(3):
        look = look.parse(table("CREATING"))
        assert (look.request.operation, look.request.delay > 0) == ("describe_table", True)
    assert look.parse(table("ACTIVE")).request.operation == "describe_time_to_live"


def answered(code: str, message: str = "", status: int = 400) -> aws.ClientError:
    """An error response, as botocore raises it."""
    body = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return aws.ClientError(body, "UpdateItem")


CASES = [
    (answered("ProvisionedThroughputExceededException"), errors.Throttled),
    (answered("ThrottlingException"), errors.Throttled),
    (answered("RequestLimitExceeded"), errors.Throttled),
    (answered("AccessDeniedException", "User is not authorized to perform: dynamodb:Scan"), errors.AccessDenied),
    (answered("UnrecognizedClientException"), errors.AccessDenied),
    (answered("ExpiredTokenException"), errors.AccessDenied),
    (answered("InvalidSignatureException", "canonical: x-amz-security-token:secret-word"), errors.AccessDenied),
    (answered("ResourceNotFoundException"), errors.SchemaError),
    (answered("ValidationException", "The provided key element does not match the schema"), errors.SchemaError),
    (answered("ValidationException", "Item size to update has exceeded the maximum"), errors.ResultTooLarge),
    (answered("ValidationException", "something else"), errors.StoreMisbehaved),
    (answered("InternalServerError", status=500), errors.StoreUnavailable),
    (answered("", status=503), errors.StoreUnavailable),
    (answered("SomethingNew"), errors.StoreMisbehaved),
    (aws.NoCredentialsError(), errors.AccessDenied),
    (aws.PartialCredentialsError(provider="env", cred_var="secret"), errors.AccessDenied),
    (aws.CredentialRetrievalError(provider="sso", error_msg="secret-word"), errors.AccessDenied),
    (aws.ProfileNotFound(profile="x"), errors.ConfigurationError),
    (aws.NoRegionError(), errors.ConfigurationError),
    (aws.EndpointConnectionError(endpoint_url="http://x"), errors.StoreUnavailable),
    (aws.ConnectionClosedError(endpoint_url="http://x"), errors.StoreUnavailable),
    (aws.ReadTimeoutError(endpoint_url="http://x"), errors.StoreTimeout),
    (aws.ConnectTimeoutError(endpoint_url="http://x"), errors.StoreTimeout),
    (aws.SSLError(endpoint_url="http://x", error="certificate"), errors.StoreUnavailable),
    (aws.DataNotFoundError(data_path="x"), errors.StoreMisbehaved),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_errors_of_botocore(error, kind):
    """Each becomes one of ours, exactly, without secrets."""
    made = translate(error, "idem", 5.0)
    assert type(made) is kind
    assert "secret-word" not in str(made)


def test_errors_say_what_to_do():
    """A missing table names the command, a missing permission the actions."""
    assert "idemstore migrate URL" in str(translate(answered("ResourceNotFoundException"), "idem", 5))
    denied = str(translate(answered("AccessDeniedException", "not authorized to perform: dynamodb:Scan"), "idem", 5))
    assert "dynamodb:Scan" in denied
    assert "dynamodb:UpdateItem" in denied
    assert translate(answered("ThrottlingException"), "idem", 5).retryable


def test_replay_outcome_of_parts_waits_for_them():
    """A replay of a divided result is not answered before its parts are read and checked."""
    parts, pieces = chunks.divide("k", "t", None, b"x" * 10)
    item = {**COMPLETED, "record_result": text(parts.pointer())}
    load = DIALECT.claim("k", Claim(None, "other", SECOND, SECOND)).parse(reply(REFUSED, item))
    assert isinstance(load, Exchange)
    assert load.request.operation == "batch_get_item"
    found = {"Responses": {"table": [{"id": text(parts.ids("k")[0]), chunks.DATA: binary(pieces[0])}]}}
    assert load.parse(Reply("", found, NOW, 5.0)) == Completed(b"x" * 10)
    with pytest.raises(errors.CorruptRecord):
        load.parse(Reply("", {"Responses": {"table": []}}, NOW, 5.0))


def test_unprocessed_work_is_sent_again():
    """What a batch did not get round to follows in the next round trip, reads and writes alike."""
    parts, pieces = chunks.divide("k", "t", None, b"x" * 10)
    item = {**COMPLETED, "record_result": text(parts.pointer())}
    load = DIALECT.claim("k", Claim(None, "other", SECOND, SECOND)).parse(reply(REFUSED, item))
    left = {"table": {"Keys": [{"id": text(parts.ids("k")[0])}], "ConsistentRead": True}}
    again = load.parse(Reply("", {"Responses": {"table": []}, "UnprocessedKeys": left}, NOW, 5.0))
    assert again.request.build(NOW) == {"RequestItems": left}
    assert again.request.delay > 0
    found = {"Responses": {"table": [{"id": text(parts.ids("k")[0]), chunks.DATA: binary(pieces[0])}]}}
    assert again.parse(Reply("", found, NOW, 5.0)) == Completed(b"x" * 10)
    put = DynamoDBDialect("table", 100, in_place=0).complete("k", Complete("t", b"x" * 10, None))
    unsent = put.request.build(NOW)["RequestItems"]
    resend = put.parse(Reply("", {"UnprocessedItems": unsent}, NOW, 5.0))
    assert resend.request.build(NOW) == {"RequestItems": unsent}
    assert resend.parse(Reply("", {}, NOW, 5.0)).request.operation == "update_item"
