"""The one tree of errors that PenguinDome raises on purpose."""

from __future__ import annotations

from typing import ClassVar


class PenguinDomeError(Exception):
    """Something that a person can do something about.

    `message` says in one line what was wrong, `hint` what to do next. `code` is stable and meant for programs;
    `exit_status` is what a command line ends with (1: it failed, 2: it was asked wrongly).
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PenguinDomeError):
    """The words of a command do not fit together."""

    code = "usage"
    exit_status = 2


class SettingsError(PenguinDomeError):
    """A settings file cannot be read, or holds a value that does not fit; the message names file and line."""

    code = "settings"
    exit_status = 2


class SignatureError(PenguinDomeError):
    """A signature is missing, malformed, or not by the key that it must be by."""

    code = "bad-signature"


class KeyMaterialError(PenguinDomeError):
    """A key or certificate cannot be read, made or used."""

    code = "bad-key"


class ManifestError(PenguinDomeError):
    """A manifest, or a file that it names, is not what was signed."""

    code = "manifest"


class ProcessError(PenguinDomeError):
    """A program that we ran failed, timed out or is missing."""

    code = "process"


class InvalidData(PenguinDomeError):
    """Well-formed data from outside that breaks a rule of ours (depth, size, types)."""

    code = "invalid-data"
