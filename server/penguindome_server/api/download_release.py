"""`GET download_release`: the package of a release, of the newest for all if none is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from penguindome_server.answers import Answer
from penguindome_server.downloads import file_answer, refusals_counted
from penguindome_server.refusals import Refusal
from penguindome_server.release_files import FORMATS
from penguindome_server.web import Web

_RELEASE = re.compile(r"[1-9][0-9]{0,8}")
_WITH_SECRETS = ("tar",)


def view(web: Web, environ: Mapping[str, Any]) -> Answer:
    """The file, by the name that it has in the release. The tar holds the bundle, and so is never open to all."""
    form, number = _asked(str(environ.get("QUERY_STRING", "")))
    with refusals_counted(web.metrics, form):
        mandatory = True if form in _WITH_SECRETS else None
        web.download_access.require(environ, web.peers.address(environ), mandatory=mandatory)
        number = number or web.rollout.newest()
        if number is None:
            raise Refusal("not-found", "there is no release for all yet")
        found = web.release_files.open(number, form)
        disposition = ("Content-Disposition", f'attachment; filename="{found.file.name}"')
        counted = partial(web.metrics.downloaded, form)
        return file_answer(environ, found.file, counted, sha256=found.sha256, headers=(disposition,))


def _asked(query: str) -> tuple[str, int | None]:
    """Format and number of the release. Raises Refusal."""
    try:
        fields = parse_qs(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=8)
    except ValueError as error:
        raise Refusal("invalid", "the query is none") from error
    if any(len(values) > 1 for values in fields.values()) or fields.keys() - {"format", "release"}:
        raise Refusal("invalid", "the query has format and release, each at most once")
    form, release = fields.get("format", ["tar"])[0], fields.get("release", [None])[0]
    if form not in FORMATS:
        raise Refusal("invalid", f"format is none of {', '.join(FORMATS)}")
    if release is not None and _RELEASE.fullmatch(release) is None:
        raise Refusal("invalid", "release is not the number of one")
    return form, None if release is None else int(release)
