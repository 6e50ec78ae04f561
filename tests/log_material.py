"""Entries of the log of administrative acts, as somebody who can write to the database can make them."""

from __future__ import annotations

from typing import Any

from penguindome_server.admin_log import FIRST_PREVIOUS, entry_hash
from penguindome_server.store import Document


def hashed_anew(entry: Document, **values: Any) -> Document:
    """The entry with other values, and the hash that fits them."""
    changed = {name: value for name, value in {**entry, **values}.items() if name != "_version"}
    return {**changed, "hash": entry_hash(changed)}


def linked_anew(entries: list[Document]) -> list[Document]:
    """A log of these entries that fits together."""
    made: list[Document] = []
    for number, entry in enumerate(entries, 1):
        previous = made[-1]["hash"] if made else FIRST_PREVIOUS
        made.append(hashed_anew(entry, _id=f"{number:012d}", sequence=number, previous=previous))
    return made
