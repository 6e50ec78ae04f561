"""Passwords that strangers present, checked such that guesses cost the server little and bring them less.

Password hashes are slow on purpose. So what was right once is remembered, as a hash under a key of this process; one
password at a time is tried, and few requests wait for that; and whoever guesses wrongly is told to come back later:
soon for one user's name from one address, and, after more, for any name from that address. Those behind the same
address whose passwords were right before notice nothing of it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_network

from penguindome_server.addresses import parse_address
from penguindome_server.passwords import password_context
from penguindome_server.refusals import Refusal

WINDOW_SECONDS = 60.0
WRONG_FOR_A_USER = 10
WRONG_FROM_AN_ADDRESS = 60
COUNTED_AT_MOST = 10_000
WAITING_AT_ONCE = 2
PATIENCE_SECONDS = 1.0


class PasswordChecks:
    """Checks passwords for all endpoints of one process."""

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._key = secrets.token_bytes(32)
        self._right: set[bytes] = set()
        self._one_at_a_time = threading.Lock()
        self._waiting = threading.BoundedSemaphore(WAITING_AT_ONCE)
        self._patience_seconds = patience_seconds
        self._guesses = Guesses(monotonic)

    def right(self, user: str, password: str, hashes: Sequence[str], *, decoy: str, address: str) -> bool:
        """Whether the password fits one of the user's hashes. Without any, `decoy`, another user's hash, is tried in
        vain: an unknown user takes as long as a wrong password. Raises Refusal when too much was guessed.
        """
        seen = [self._digest(stored, password) for stored in hashes]
        if any(one in self._right for one in seen):
            return True
        self._guesses.require(address, user)
        self._take_turn()
        try:
            # While this waited, another request may have found the same password right.
            if any(one in self._right for one in seen):
                return True
            if not hashes:
                password_context().verify(password, decoy)
            for one, stored in zip(seen, hashes, strict=True):
                if password_context().verify(password, stored):
                    self._right.add(one)
                    return True
        finally:
            self._one_at_a_time.release()
        self._guesses.note(address, user)
        return False

    def _digest(self, stored: str, password: str) -> bytes:
        return hmac.digest(self._key, f"{stored}\0{password}".encode(), hashlib.sha256)

    def _take_turn(self) -> None:
        if self._one_at_a_time.acquire(blocking=False):
            return
        if self._waiting.acquire(blocking=False):
            try:
                if self._one_at_a_time.acquire(timeout=self._patience_seconds):
                    return
            finally:
                self._waiting.release()
        raise Refusal("rate-limited", "other passwords are being checked", retry_after=1)


class Guesses:
    """Counts wrong passwords, by address and user and by address alone, in windows of a minute."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        # Oldest window first: the end of the window, and how many were wrong in it.
        self._wrong: dict[tuple[str, str | None], tuple[float, int]] = {}

    def require(self, address: str, user: str) -> None:
        """Raise Refusal if this address has guessed too much."""
        now = self._monotonic()
        with self._lock:
            for key, limit in self._limits(address, user):
                until, count = self._wrong.get(key, (0.0, 0))
                if count >= limit and until > now:
                    raise Refusal("rate-limited", "too many wrong passwords", retry_after=int(until - now) + 1)

    def note(self, address: str, user: str) -> None:
        """Count one wrong password."""
        now = self._monotonic()
        with self._lock:
            for key, _limit in self._limits(address, user):
                until, count = self._wrong.get(key, (0.0, 0))
                if until <= now:
                    self._wrong.pop(key, None)
                    until, count = now + WINDOW_SECONDS, 0
                self._wrong[key] = (until, count + 1)
            while len(self._wrong) > COUNTED_AT_MOST:
                del self._wrong[next(iter(self._wrong))]

    def _limits(self, address: str, user: str) -> tuple[tuple[tuple[str, str | None], int], ...]:
        whence = _neighbourhood(address)
        # A user whom nobody knows is counted like any other: which names are known must not show.
        return ((whence, user[:100]), WRONG_FOR_A_USER), ((whence, None), WRONG_FROM_AN_ADDRESS)


def _neighbourhood(address: str) -> str:
    """The address, or the /64 of an IPv6 address, all of which one machine can have."""
    parsed = parse_address(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network(f"{parsed}/64", strict=False))
    return address
