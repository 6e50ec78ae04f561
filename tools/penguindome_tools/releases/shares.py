"""Who gets a release first, as administrators write it: a share of all clients, and the names of some."""

from __future__ import annotations

import re
from collections.abc import Sequence

from penguindome.errors import UsageError
from penguindome_server.enrolment import find_client
from penguindome_server.store import Store

_SHARE = re.compile(r"[0-9]{1,3}%")


def canaries_of(store: Store, words: Sequence[str]) -> tuple[int | None, list[str]]:
    """The share, in percent (None if none was given), and the ids of the clients that were named.

    Raises UsageError for what is neither, or for a second share.
    """
    percent: int | None = None
    clients: list[str] = []
    for word in words:
        if not word.endswith("%"):
            clients.append(find_client(store, word, states=("enrolled",), fields=())["_id"])
        elif percent is not None or not _SHARE.fullmatch(word) or not 1 <= int(word[:-1]) <= 100:
            raise UsageError(f"--canary {word}: a canary is one share of the clients, whole percents from 1% to 100%")
        else:
            percent = int(word[:-1])
    return percent, list(dict.fromkeys(clients))
