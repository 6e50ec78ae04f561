"""How both engines stream what `find` found: first the keys, in order, many at once; then documents, a few at a time.

Between two reads nothing is held open in the database, however long the reader takes over a document. Sorting and
filtering happen on keys alone, so that documents of 15 kB are read once, when their turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from penguindome_server.store import Document

KEYS_AT_ONCE = 10_000
DOCUMENTS_AT_ONCE = 64
FIRST_DOCUMENTS = 16
BYTES_AT_ONCE = 4 << 20

Position = tuple[Any, str]
"""The value of the sorted field (None in the order of `_id`) and the `_id` of a document: where to go on."""

KeyReader = Callable[[Position | None, int], Sequence[Position]]
"""Up to so many positions, in order, after the given one (None: from the start)."""

DocumentReader = Callable[[Sequence[str]], tuple[Mapping[str, Document], int]]
"""Those documents of these keys that are there and still match, and how many bytes they were."""


def stream(read_keys: KeyReader, read_documents: DocumentReader, *, limit: int | None) -> Iterator[Document]:
    """Yield what `find` found, in the order of `read_keys`."""
    position: Position | None = None
    size = FIRST_DOCUMENTS
    while limit is None or limit > 0:
        wanted = KEYS_AT_ONCE if limit is None else min(limit, KEYS_AT_ONCE)
        positions = read_keys(position, wanted)
        start = 0
        while start < len(positions):
            keys = [key for _, key in positions[start : start + size]]
            start += len(keys)
            found, read = read_documents(keys)
            size = max(1, min(DOCUMENTS_AT_ONCE, BYTES_AT_ONCE * len(keys) // (read + 1)))
            for key in keys:
                if key in found:
                    yield found[key]
        if limit is not None:
            limit -= len(positions)
        if len(positions) < wanted:
            return
        position = positions[-1]
