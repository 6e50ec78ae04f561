"""Files as answers: the part that was asked for, with the headers that let readers resume and keep what they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from penguindome.logging import get_logger
from penguindome_server.answers import Answer, refusal_answer
from penguindome_server.metrics import Metrics
from penguindome_server.refusals import Refusal
from penguindome_server.requested_part import Part, choose, http_date
from penguindome_server.sending import FileRegion
from penguindome_server.tree_files import OpenFile

log = get_logger(__name__)

CONTENT_TYPES = {
    ".deb": "application/vnd.debian.binary-package",
    ".gz": "application/gzip",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
    ".tar": "application/x-tar",
    ".sig": "application/pgp-signature",
    ".asc": "application/pgp-signature",
    ".gpg": "application/pgp-signature",
}
TEXTS = ("InRelease", "Release", "Packages")

_OUTCOMES = {304: "unchanged", 412: "changed", 416: "no-such-part"}


def content_type(name: str) -> str:
    """The media type of a file of a release or repository."""
    if name in TEXTS:
        return "text/plain; charset=utf-8"
    return CONTENT_TYPES.get("." + name.rpartition(".")[2], "application/octet-stream")


def file_answer(
    environ: Mapping[str, Any],
    file: OpenFile,
    counted: Callable[[str, int], None],
    *,
    sha256: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Answer:
    """The answer to a GET or HEAD of `file`, which is closed when that was sent.

    `sha256` is that of its contents, where it is known. `counted` is told the outcome and how many bytes were sent.
    """
    etag = f'"{sha256}"' if sha256 else f'"{file.inode:x}-{file.modified_ns:x}-{file.size:x}"'
    part = choose(environ, size=file.size, etag=etag, modified_at=file.modified_at)
    if part.status in _OUTCOMES:
        file.close()
        counted(_OUTCOMES[part.status], 0)
    common = (
        ("ETag", etag),
        ("Last-Modified", http_date(file.modified_at)),
        ("Accept-Ranges", "bytes"),
        # Whoever keeps a copy asks whether it is still good: an index and its signature change together.
        ("Cache-Control", "no-cache"),
        ("X-Content-Type-Options", "nosniff"),
    )
    if part.status == 304:
        return Answer(304, b"", headers=common)
    if part.status == 412:
        return refusal_answer(Refusal("precondition-failed", "the file is another than you have"))
    if part.status == 416:
        refusal = Refusal("range-not-satisfiable", f"the file has {file.size} bytes")
        return refusal_answer(refusal, (("Content-Range", f"bytes */{file.size}"),))
    region = FileRegion(file.descriptor, part.offset, part.length, _ended(environ, counted))
    return Answer(part.status, b"", content_type(file.name), (*common, *_range_header(part, file), *headers), region)


@contextmanager
def refusals_counted(metrics: Metrics, kind: str) -> Iterator[None]:
    """Count what is refused, and refuse what is not there."""
    try:
        yield
    except FileNotFoundError as error:
        metrics.downloaded(kind, "not-found")
        raise Refusal("not-found", "there is no such file") from error
    except OSError as error:
        # Root published something that the service cannot read, or the disk fails.
        log.error("a file of {} cannot be served: {}", kind, error)
        metrics.downloaded(kind, "failed")
        raise Refusal("not-found", "there is no such file") from error
    except Refusal as refusal:
        metrics.downloaded(kind, "refused" if refusal.status in (401, 403, 429) else refusal.reason)
        raise


def _range_header(part: Part, file: OpenFile) -> tuple[tuple[str, str], ...]:
    if part.status != 206:
        return ()
    return (("Content-Range", f"bytes {part.offset}-{part.offset + part.length - 1}/{file.size}"),)


def _ended(environ: Mapping[str, Any], counted: Callable[[str, int], None]) -> Callable[[int, bool], None]:
    def ended(sent: int, everything: bool) -> None:  # noqa: FBT001  as FileRegion calls it
        if environ["REQUEST_METHOD"] == "HEAD":
            counted("asked-about", 0)
        else:
            counted("complete" if everything else "broken-off", sent)

    return ended
