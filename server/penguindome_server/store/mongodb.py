"""The MongoDB engine: a standalone mongod, or a replica set, shared by any number of servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pymongo import IndexModel, MongoClient, WriteConcern, timeout
from pymongo.database import Database
from pymongo.errors import CollectionInvalid
from pymongo.read_concern import ReadConcern

from penguindome_server.store import Document, StoreError, StoreUnavailable
from penguindome_server.store.mongodb_collection import Group, MongoCollection, Wires
from penguindome_server.store.mongodb_connection import OPTIONS, PING_SECONDS, Guard, connect, parse_address
from penguindome_server.store.schema import SCHEMA, CollectionSchema, Index

T = TypeVar("T")

_DURABLE = WriteConcern(w="majority", j=True)
_ACKNOWLEDGED = WriteConcern(w=1)


class MongoStore:
    """A store in one database of MongoDB."""

    atomic = False

    def __init__(self, uri: str, *, schema: Mapping[str, CollectionSchema] = SCHEMA) -> None:
        self._address = parse_address(uri)
        self.uri = self._address.shown
        self._schema = schema
        self._local = threading.local()
        self._client = connect(self._address)
        # Within `together` a write must not be tried again on another primary, where those before it may be missing.
        self._quick_client = connect(self._address, retryWrites=False)
        self._guard = Guard(self._address, self._client)
        self._database = self._of(self._client, _DURABLE, "majority")
        self._quick_database = self._of(self._quick_client, _ACKNOWLEDGED, "local")
        self._barrier = self._quick_database["server_state"].with_options(write_concern=_DURABLE)
        self._collections = {name: self._collection(collection) for name, collection in schema.items()}
        try:
            self.ping()
            with self._guard.call():
                self._quick_client.admin.command("ping")  # so that it knows the primary, which `_stay` looks at
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _of(self, client: MongoClient[Document], write_concern: WriteConcern, level: str) -> Database[Document]:
        return client.get_database(
            self._address.database,
            codec_options=OPTIONS,
            write_concern=write_concern,
            read_concern=ReadConcern(level),
        )

    def collection(self, name: str) -> MongoCollection:
        """A collection of the schema; another name is a `StoreError`."""
        try:
            return self._collections[name]
        except KeyError as error:
            raise StoreError(f"the store has no collection {name!r}") from error

    def together(self, work: Callable[[], T]) -> T:
        """Run `work` with writes that the primary alone acknowledges, then wait until a majority has all on disk."""
        if self._group() is not None:
            return work()
        self._local.group = group = Group()
        try:
            result = work()
        except StoreUnavailable:
            raise
        except StoreError:
            # Also a refusal may rest on a write that a fail-over could still undo.
            self._settle(group)
            raise
        else:
            self._settle(group)
            return result
        finally:
            self._local.group = None

    def check(self) -> list[str]:
        """Problems found in structure and contents."""
        problems: list[str] = []
        for name, collection in self._collections.items():
            problems.extend(self._validate(name))
            problems.extend(f"{name}: {index} is missing or not as the schema says" for index in self._missing(name))
            problems.extend(collection.problems())
        return problems

    def snapshot(self, path: Path) -> bool:
        """There is no moment that a standalone mongod could be asked about."""
        return False

    def ping(self) -> None:
        """Raise `StoreUnavailable` when the store cannot serve reads now."""
        with self._guard.call(), timeout(PING_SECONDS):
            self._client.admin.command("ping")

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        self._quick_client.close()

    def _validate(self, name: str) -> list[str]:
        """The server's own check of a collection: it reads everything, for as long as that takes."""
        with connect(self._address, socketTimeoutMS=0) as patient, self._guard.call():
            result = patient.get_database(self._address.database).command("validate", name)
        return [] if result.get("valid") else [f"{name}: {result.get('errors') or 'not valid'}"]

    def _collection(self, schema: CollectionSchema) -> MongoCollection:
        durable, quick = self._database[schema.name], self._quick_database[schema.name]
        last = quick.with_options(write_concern=_DURABLE)
        return MongoCollection(schema, Wires(self._guard, durable, quick, last, self._group, self._stay))

    def _group(self) -> Group | None:
        return getattr(self._local, "group", None)

    def _stay(self, group: Group) -> None:
        """Refuse to go on after a fail-over: a write that it undid must not be followed by others."""
        description = self._quick_client.topology_description
        primary = next(
            (
                f"{server.address} {server.election_id}"
                for server in description.server_descriptions().values()
                if server.is_writable
            ),
            "",
        )
        if group.primary and primary != group.primary:
            raise StoreUnavailable(f"MongoDB at {self.uri} has elected another primary")
        group.primary = primary

    def _settle(self, group: Group) -> None:
        """Wait until all writes of this thread are durable: a write that changes nothing waits for those before it."""
        if not group.is_durable:
            self._stay(group)
            with self._guard.call():
                self._barrier.update_one({"_id": "barrier"}, {"$unset": {"barrier": ""}})
            self._stay(group)

    def _prepare(self) -> None:
        with self._guard.call():
            present = set(self._database.list_collection_names())
            for name in self._schema.keys() - present:
                try:
                    self._database.create_collection(name)
                except CollectionInvalid:
                    continue  # another process was quicker
        for name, collection in self._schema.items():
            missing = self._missing(name)
            models = [_model(index) for index in collection.indexes if _index_name(index) in missing]
            if models:
                self._create_indexes(name, models)

    def _create_indexes(self, name: str, models: list[IndexModel]) -> None:
        # The default asks every member, so that one that is down would keep the server from starting.
        options: dict[str, Any] = {"commitQuorum": "majority"} if self._is_replica_set() else {}
        with connect(self._address, socketTimeoutMS=0, wTimeoutMS=0) as patient, self._guard.call():
            patient.get_database(self._address.database)[name].create_indexes(models, **options)

    def _is_replica_set(self) -> bool:
        return bool(self._client.topology_description.replica_set_name)

    def _missing(self, name: str) -> list[str]:
        with self._guard.call():
            found = self._database[name].index_information()
        return [
            _index_name(index)
            for index in self._schema[name].indexes
            if not _is_as_wanted(found.get(_index_name(index)), index)
        ]


def _index_name(index: Index) -> str:
    return "-".join((*index.fields, *(f"{field}={value}" for field, value in index.where.items())))


def _model(index: Index) -> IndexModel:
    options: dict[str, Any] = {"partialFilterExpression": dict(index.where)} if index.where else {}
    keys = [(field, 1) for field in index.fields]
    return IndexModel(keys, name=_index_name(index), unique=index.unique, **options)


def _is_as_wanted(found: Mapping[str, Any] | None, index: Index) -> bool:
    return (
        found is not None
        and [field for field, _ in found["key"]] == list(index.fields)
        and bool(found.get("unique")) == index.unique
        and dict(found.get("partialFilterExpression") or {}) == dict(index.where)
    )
