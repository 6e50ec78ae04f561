"""The connection to MongoDB: what a URI must say, how long anything may take, and what pymongo's errors mean."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry
from bson.errors import BSONError
from bson.int64 import Int64
from pymongo import MongoClient
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WTimeoutError,
)
from pymongo.uri_parser import parse_uri

from penguindome_server.store import Document, DuplicateKey, StoreError, StoreUnavailable

PING_SECONDS = 2.0

# Not in order just now, on a server that can be in order again: elections, shutdowns, time-outs, a full disk.
_PASSING = frozenset(
    (6, 7, 50, 64, 89, 91, 133, 189, 202, 262, 9001, 10107, 11600, 11602, 13435, 13436, 14031, 100, 134, 211, 317)
)
_REFUSED = {13: "may not do this", 18: "is not let in: wrong name or password"}
# A server that is away is noticed after 2 s; one that hangs when its heartbeat stops, which frees who waits for it.
_DEFAULTS: Mapping[str, Any] = {
    "serverSelectionTimeoutMS": 2000,
    "connectTimeoutMS": 2000,
    "socketTimeoutMS": 10_000,
    "waitQueueTimeoutMS": 5000,
    "wTimeoutMS": 8000,
    "heartbeatFrequencyMS": 3000,
    "maxPoolSize": 64,
    "appName": "penguindome",
}


class _PlainInteger(TypeDecoder):
    """MongoDB's 64-bit integers as int: a subclass of it would be another type to whoever compares types."""

    bson_type = Int64

    def transform_bson(self, value: Any) -> int:
        return int(value)


OPTIONS: CodecOptions[Document] = CodecOptions(tz_aware=True, tzinfo=UTC, type_registry=TypeRegistry([_PlainInteger()]))


@dataclass(frozen=True)
class Address:
    """What a URI says: `shown` is it without the password."""

    uri: str
    shown: str
    database: str
    secrets: tuple[str, ...]
    options: frozenset[str]

    def without_secrets(self, text: str) -> str:
        """A message with every form of the password taken out."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def parse_address(uri: str) -> Address:
    """Read a `mongodb:` URI. Raises StoreError that says what is wrong, without the password."""
    shown, secrets = _hidden(uri)
    blank = Address(uri, shown, "", secrets, frozenset())
    try:
        parsed = parse_uri(uri, validate=True, warn=False)
    except (InvalidURI, ConfigurationError, ValueError) as error:
        reason = blank.without_secrets(str(error))
        hint = "write mongodb://user:password@host1,host2/database?replicaSet=name, reserved characters as %XX"
        raise StoreError(f"database.uri: {shown} cannot be read: {reason}", hint=hint) from None
    except PyMongoError as error:  # mongodb+srv asks the name servers
        raise StoreUnavailable(f"database.uri: {shown}: {blank.without_secrets(str(error))}") from None
    if not parsed["database"] or parsed["collection"]:
        raise StoreError(f"database.uri: {shown} names no database", hint="write mongodb://host/penguindome")
    options = frozenset(name.lower() for name in parsed["options"])
    return Address(uri, shown, parsed["database"], secrets, options)


def connect(address: Address, **options: Any) -> MongoClient[Document]:
    """A client (it connects when first used): acknowledged means that a majority has it on disk."""
    defaults = {name: value for name, value in _DEFAULTS.items() if name.lower() not in address.options}
    defaults |= {"w": "majority", "journal": True, "tz_aware": True, "connect": False, **options}
    try:
        return MongoClient(address.uri, **defaults)
    except (PyMongoError, ValueError, TypeError) as error:
        raise StoreError(f"database.uri: {address.shown}: {address.without_secrets(str(error))}") from None


def require_access(uri: str) -> None:
    """Raise StoreError unless the database can be reached and lets the user of `uri` read it. Changes nothing."""
    address = parse_address(uri)
    try:
        with connect(address) as client:
            client[address.database].list_collection_names()
    except (PyMongoError, BSONError) as error:
        raise translated(error, address) from None


class Guard:
    """Stands before every call to the database: its errors become ours, and who comes while it is away need not wait.

    When no server could be found, one caller at a time tries again; the others are told at once, until one is there.
    """

    def __init__(self, address: Address, client: MongoClient[Document]) -> None:
        self._address = address
        self._client = client
        self._is_away = False
        self._probe = threading.Lock()

    @contextmanager
    def call(self) -> Iterator[None]:
        """A block that calls the database."""
        probing = self._is_away and not self._client.topology_description.has_writable_server()
        if probing and not self._probe.acquire(blocking=False):
            raise StoreUnavailable(f"MongoDB at {self._address.shown} cannot be reached")
        try:
            yield
            self._is_away = False
        except (PyMongoError, BSONError) as error:
            self._is_away = isinstance(error, ServerSelectionTimeoutError)
            raise translated(error, self._address) from error
        finally:
            if probing:
                self._probe.release()


def translated(error: Exception, address: Address) -> StoreError:
    """Our error for one of pymongo's."""
    if isinstance(error, BulkWriteError):
        return _of_bulk(error, address)
    text = address.without_secrets(_first_line(error))
    if isinstance(error, DuplicateKeyError):
        return DuplicateKey(f"there is a document with the same key already: {text}")
    if isinstance(error, OperationFailure) and error.code in _REFUSED:
        return StoreError(f"MongoDB at {address.shown}: the user of database.uri {_REFUSED[error.code]} ({text})")
    if isinstance(error, (ConnectionFailure, ExecutionTimeout, WTimeoutError, WriteConcernError)) or _is_passing(error):
        return StoreUnavailable(f"MongoDB at {address.shown} cannot be used now: {text}")
    if isinstance(error, ConfigurationError):
        return StoreError(f"database.uri: {address.shown}: {text}")
    return StoreError(f"MongoDB at {address.shown} refused: {text}")


def _is_passing(error: Exception) -> bool:
    if isinstance(error, PyMongoError) and (error.timeout or error.has_error_label("RetryableWriteError")):
        return True
    return isinstance(error, OperationFailure) and error.code in _PASSING


def _of_bulk(error: BulkWriteError, address: Address) -> StoreError:
    details = error.details or {}
    errors = details.get("writeErrors", [])
    if any(item.get("code") == 11000 for item in errors):
        return DuplicateKey(f"there is a document with the same key already: {errors[0].get('errmsg', '')}")
    passing = error.timeout or details.get("writeConcernErrors") or any(item.get("code") in _PASSING for item in errors)
    kind = StoreUnavailable if passing else StoreError
    return kind(f"MongoDB at {address.shown} refused: {address.without_secrets(str(details)[:300])}")


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text.partition(", full error:")[0].partition(", Topology Description:")[0][:300]


def _hidden(uri: str) -> tuple[str, tuple[str, ...]]:
    """The URI without password, and every form in which a message might hold it."""
    scheme, separator, rest = uri.partition("://")
    end = min((position for position in (rest.find("/"), rest.find("?")) if position >= 0), default=len(rest))
    at = rest.rfind("@", 0, end)
    if at < 0 and "@" in rest:
        # A slash or question mark in the password, which should have been escaped: hide all before the last @.
        at = rest.rfind("@")
    if not separator or at < 0:
        return uri, ()
    user, colon, password = rest[:at].partition(":")
    if not colon:
        return uri, ()
    plain = {unquote(password), unquote_plus(password)}
    forms = {password, *plain, *map(quote, plain), *map(quote_plus, plain)} - {""}
    return f"{scheme}://{user}@{rest[at + 1 :]}", tuple(sorted(forms, key=len, reverse=True))
