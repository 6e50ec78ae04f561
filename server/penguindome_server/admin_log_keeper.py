"""Keeping the administrative log: acts that have ended become entries of the chain, which is then held to root's head.

Root first signs a head that holds the new entries, then the store takes them. Whoever comes next finishes what a crash
left half-way; so at any instant each act that has begun is in a file of its own, in the signed head, or in the store.

Files are root's, the store is the service user's: `as_root` is entered for the one and left for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from socket import gethostname

from penguindome.errors import PenguinDomeError
from penguindome.files import FileLock
from penguindome.paths import Paths
from penguindome.times import Clock, utc_now
from penguindome_server.admin_log import (
    COLLECTION,
    FIRST_PREVIOUS,
    LONGEST_TEXT,
    ChainCheck,
    Ends,
    Problems,
    entry_id,
    is_entry,
    make_entry,
)
from penguindome_server.admin_log_acts import ActFile, Beginning, Waiting, acts_under_way, forget, waiting_acts
from penguindome_server.admin_log_head import MOST_ENTRIES, Head, HeadError, HeadFiles
from penguindome_server.store import Document, Store, StoreError, StoreUnavailable

LOCK_SECONDS = 30.0
REPAIR = "log repair"
_LONGEST_EVIDENCE = 7000

AsRoot = Callable[[], AbstractContextManager[None]]
Progress = Callable[[Iterator[Document], int], Iterator[Document]]
"""Passes documents through and shows how far it is: documents, how many there will be."""


@dataclass
class Verdict:
    """What `LogKeeper.verify` found. `signed_by` is a fingerprint; None: there is no log yet."""

    problems: Problems = field(default_factory=Problems)
    entries: int = 0
    hash: str = FIRST_PREVIOUS
    signed_by: str | None = None
    under_way: int = 0
    """Acts that have begun and not ended: the program runs."""
    waiting: int = 0
    """Acts that have ended and could not be written into the log yet."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems.count


def acts_directory(paths: Paths) -> Path:
    """Where the files of acts lie that are not in the log yet."""
    return paths.keys / "admin_log.acts"


def resign_head(paths: Paths) -> None:
    """After a rotation of the server key: sign root's head of the log, if there is one, with the new key.

    The old private key must still be in root's keyring: a head that is not signed by a key of this server is not signed
    again. Raises HeadError, NoSigningKey, KeyMaterialError, AlreadyRunning, OSError.
    """
    with locked_log(paths):
        HeadFiles(paths.keys).sign_again()


@contextmanager
def locked_log(paths: Paths) -> Iterator[None]:
    """Hold the log's lock: no act is written meanwhile, neither into root's files nor into the store (a backup of both
    fits together). Raises AlreadyRunning after half a minute, OSError.
    """
    with FileLock(paths.keys / "admin_log.lock", wait=LOCK_SECONDS):
        yield


class LogKeeper:
    """Writes and verifies the log of one site. `settle` and `verify` are for root, on an open store."""

    def __init__(self, paths: Paths, store: Store, *, as_root: AsRoot = nullcontext, clock: Clock = utc_now) -> None:
        self._paths = paths
        self._entries = store.collection(COLLECTION)
        self._as_root = as_root
        self._clock = clock
        self._files = HeadFiles(paths.keys)
        self._acts = acts_directory(paths)

    def settle(self) -> list[str]:
        """Write all acts that wait into the log; returns what had to be repaired, which is in the log too.

        Raises StoreUnavailable, NoSigningKey, KeyMaterialError, AlreadyRunning, OSError: the acts then go on waiting.
        """
        with self._locked():
            return self._settle()

    def verify(self, progress: Progress) -> Verdict:
        """Finish what is left half-way, then look at every entry. `progress` is handed the entries that it passes on.

        Raises StoreUnavailable, AlreadyRunning, OSError.
        """
        verdict = Verdict()
        with self._locked():
            self._settle_and_tell(verdict.problems)
            ends = self._ends(verdict)
        chain = ChainCheck(verdict.problems)
        try:
            # Those that were there are looked at while others may be written, the rest while nobody writes.
            seen = entry_id(ends[0] if ends else self._entries.count())
            first = self._entries.find({"_id": {"$lte": seen}})
            chain.take_all(progress(first, int(seen)), ends=ends)
            with self._locked():
                ends = self._ends(verdict)
                chain.take_all(self._entries.find({"_id": {"$gt": seen}}), ends=ends)
                chain.end(ends)
                more = self._entries.count() - chain.seen
        except StoreUnavailable:
            raise
        except StoreError as error:
            verdict.problems.add(f"what comes after entry {chain.count} cannot be read: {error.message}")
        else:
            if more > 0:
                verdict.problems.add(f"there are {more} documents that are none of the log's")
        verdict.entries, verdict.hash = ends or (chain.count, chain.hash)
        return verdict

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self._paths.keys / "admin_log.lock", wait=LOCK_SECONDS)
        with self._as_root():
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _settle(self) -> list[str]:
        repairs: list[str] = []
        count, last_hash = self._finish(repairs)
        for repair in repairs:
            self._wait_for(repair)
        told = len(repairs)
        while batch := self._batch():
            entries = []
            for waiting in batch:
                entry = make_entry(waiting.act, sequence=count + 1, previous=last_hash)
                entries.append(entry)
                count, last_hash = count + 1, entry["hash"]
            head = Head(entries)
            with self._as_root():
                self._files.write(head)
            self._store(head, repairs)
            with self._as_root():
                for waiting in batch:
                    waiting.path.unlink(missing_ok=True)
            for repair in repairs[told:]:
                self._wait_for(repair)
            told = len(repairs)
        return repairs

    def _finish(self, repairs: list[str]) -> tuple[int, str]:
        """Let the store have what the head says that it shall have; how many entries there are then, and the last hash.

        What was not as it must be is added to `repairs`.
        """
        with self._as_root():
            head = self._readable_head(repairs)
        if head is not None:
            self._store(head, repairs)
            return head.count, head.hash
        for document in self._entries.find(sort="-_id", limit=1000):
            if is_entry(document):
                sequence = document["sequence"]
                repairs.append(f"root's head of the log was lost: it goes on after entry {sequence} of the store")
                return sequence, document["hash"]
        return 0, FIRST_PREVIOUS

    def _readable_head(self, repairs: list[str]) -> Head | None:
        try:
            found = self._files.read()
        except HeadError as error:
            repairs.append(error.message)
            head = self._files.unverified()
            if head is None:
                self._files.set_aside()
            return head
        return found[0] if found else None

    def _store(self, head: Head, repairs: list[str]) -> None:
        """Put those entries of the head into the store that it has not taken yet, and remember that it has them."""
        with self._as_root():
            stored = self._files.stored
        missing = [entry for entry in head.entries if entry["sequence"] > stored]
        if missing and self._entries.insert_new([dict(entry) for entry in missing]) < len(missing):
            for entry in missing:
                self._take_the_place_of_another(entry, repairs)
        with self._as_root():
            self._files.stored = head.count
            forget(self._acts, [str(entry.get("act_id")) for entry in head.entries])

    def _take_the_place_of_another(self, entry: Document, repairs: list[str]) -> None:
        """Where the next entry belongs, somebody who can write to the database may have put one of his own."""
        before = self._entries.update(
            entry["_id"], lambda there: None if _are_same(there, entry) else dict(entry)
        ).before
        if before is not None and not _are_same(before, entry):
            text = repr(before)
            digest = sha256(text.encode()).hexdigest()
            repairs.append(
                f"entry {entry['sequence']} was in the store before it was made (SHA-256 {digest}); it was replaced: "
                f"{text[:_LONGEST_EVIDENCE]}"
            )

    def _wait_for(self, repair: str) -> None:
        """Let a repair be told like an act: what was found is in its details."""
        now = self._clock()
        with self._as_root():
            act = ActFile.begin(self._acts, Beginning(REPAIR, "penguindome", None, gethostname(), now))
            act.note([], {"found": repair})
            act.end("done", at=now)

    def _batch(self) -> Sequence[Waiting]:
        with self._as_root():
            return list(islice(waiting_acts(self._acts), MOST_ENTRIES))

    def _settle_and_tell(self, problems: Problems) -> None:
        try:
            for repair in self._settle():
                problems.add(repair[:LONGEST_TEXT])
        except StoreUnavailable:
            raise
        except PenguinDomeError as error:
            problems.add(f"nothing can be written into the log: {error.message}")
        except OSError as error:
            problems.add(f"nothing can be written into the log: {error.strerror}: {error.filename}")

    def _ends(self, verdict: Verdict) -> Ends:
        """Where the log ends as root's head says, and what else root knows; None when the head cannot be used."""
        with self._as_root():
            names = len(list(self._acts.glob("*.act")))
            verdict.under_way = acts_under_way(self._acts)
            verdict.waiting = max(0, names - verdict.under_way)
            try:
                found = self._files.read()
            except HeadError as error:
                if error.message not in verdict.problems.found:
                    verdict.problems.add(error.message)
                return None
        if found is None:
            return 0, FIRST_PREVIOUS
        verdict.signed_by = found[1]
        return found[0].count, found[0].hash


def _are_same(document: Document | None, entry: Document) -> bool:
    return document is not None and {**document, "_version": None} == {**entry, "_version": None}
