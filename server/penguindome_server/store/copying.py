"""Copying a whole store into another, of either engine, and proving that the copy is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from penguindome.json import dumps
from penguindome_server.store import Collection, Document, Store, StoreError
from penguindome_server.store.schema import SCHEMA

_DOCUMENTS_AT_ONCE = 100
_BYTES_AT_ONCE = 4 << 20

Progress = Callable[[Iterator[Document], int, str], Iterator[Document]]
"""Passes documents through and shows how far it is: documents, how many there will be, what is being done."""


@dataclass(frozen=True)
class Summary:
    """What a collection holds: how many documents, and a digest over all of them in the order of their ids."""

    name: str
    documents: int
    digest: str


def copy_store(source: Store, target: Store, progress: Progress) -> list[Summary]:
    """Copy every document, `_version` and all, then read both stores again and compare them.

    Nothing may write to either meanwhile. Raises StoreError when `target` is not empty, or is not the same at the end.
    """
    filled = [name for name in SCHEMA if target.collection(name).count()]
    if filled:
        hint = "copy into a new, empty store"
        raise StoreError(f"{target.uri} is not empty: there are documents in {', '.join(filled)}", hint=hint)
    for name in SCHEMA:
        collection = source.collection(name)
        documents = progress(collection.find(), collection.count(), f"copying {name}")
        for batch in _batches(documents):
            target.collection(name).load(batch)
    return [_compared(source.collection(name), target.collection(name), progress) for name in SCHEMA]


def summary(collection: Collection, documents: Iterator[Document]) -> Summary:
    """Count and digest of these documents, which are all of the collection, in the order of their ids."""
    digest = sha256()
    count = 0
    for document in documents:
        digest.update(dumps(document, sort_keys=True).encode())
        digest.update(b"\n")
        count += 1
    return Summary(collection.name, count, digest.hexdigest())


def _compared(source: Collection, target: Collection, progress: Progress) -> Summary:
    original, copy = (
        summary(collection, progress(collection.find(), collection.count(), f"comparing {collection.name}"))
        for collection in (source, target)
    )
    if original != copy:
        raise StoreError(
            f"{source.name}: the copy has {copy.documents} documents, the original {original.documents}, "
            "and they are not the same",
            hint="stop the server, empty the target and copy again",
        )
    return copy


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Some documents at a time: the larger they are, the fewer."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(dumps(document))
        if len(batch) >= _DOCUMENTS_AT_ONCE or size > _BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
