"""Where the move to another release stands, in plain words: for `status` and `update`."""

from __future__ import annotations

from penguindome.client import downloads
from penguindome.client.update_record import UpdateRecord
from penguindome.client.version import package_kind
from penguindome.paths import Paths


def standing(paths: Paths, record: UpdateRecord | None) -> str:
    """One line; "" when there never was an update."""
    if record is None or record.release == 0:
        return ""
    number = record.release
    if record.phase == "failed":
        return f"release {number} did not work here; release {_stays(record)} is in force"
    if record.phase == "done":
        return f"moved from release {record.from_release} to {number}"
    doing = {
        "offered": f"release {number} is offered, and downloaded ({downloads.progress(paths.client_cache, record)} %)",
        "ready": f"release {number} is here, and installed next",
        "installing": f"release {number} is being installed",
        "proving": f"release {number} is installed, and proves that it works",
        "going-back": f"release {record.from_release} is put back",
    }[record.phase]
    return f"{doing}; it {record.reason}" if record.reason.startswith("waits") else _because(doing, record.reason)


def complaints(record: UpdateRecord | None) -> list[str]:
    """What somebody should know or do, a sentence each."""
    if record is None:
        return []
    lines = []
    if record.phase == "failed":
        lines.append(
            f"Release {record.release} {record.reason}. This machine stays with release {_stays(record)}, and"
            " takes the next one. Tell the administrator."
        )
    if record.refused_reason:
        lines.append(f"The release that the server offers was {record.refused_reason}. Tell the administrator.")
    return lines


def waiting(paths: Paths, record: UpdateRecord | None, *, in_force: int) -> list[str]:
    """What a person is to install, and how, where that is left to people: a sentence, or nothing. `in_force` is the
    highest release that ever was.
    """
    if record is None or record.waiting_release <= in_force:
        return []
    how = {
        "deb": "run: sudo apt update && sudo apt install penguindome-client",
        "pacman": "run: sudo pacman -Syu penguindome-client",
        "tar": "run, in its tar: sudo ./setup",
    }[package_kind(paths.client_code)]
    return [f"Release {record.waiting_release} waits, for update.automatic is false. To install it, {how}"]


def _stays(record: UpdateRecord) -> int:
    """Which release a machine has on which one failed: that very one, where it could not go back from it."""
    return record.release if record.kept_release == record.release else record.from_release


def _because(doing: str, reason: str) -> str:
    return f"{doing}; it was tried, but: {reason}" if reason else doing
