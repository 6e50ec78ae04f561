"""Password hashes of the settings: the one module that knows passlib."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from passlib.context import CryptContext

SCHEMES: Sequence[str] = ("pbkdf2_sha256", "pbkdf2_sha512", "sha512_crypt", "sha256_crypt")
ROUNDS = 600_000
"""Of the hashes that are made here; others are verified with their own."""


@functools.cache
def password_context() -> CryptContext:
    """What identifies and verifies hashes of the schemes that are known here."""
    with warnings.catch_warnings():
        # passlib looks whether the deprecated module `crypt` is there; it does without it.
        warnings.simplefilter("ignore", DeprecationWarning)
        from passlib.context import CryptContext
    return CryptContext(schemes=list(SCHEMES), pbkdf2_sha256__default_rounds=ROUNDS)
