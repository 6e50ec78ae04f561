"""`GET repo/apt/...` and `repo/arch/...`: the site's signed repositories."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from penguindome_server.answers import Answer
from penguindome_server.downloads import file_answer, refusals_counted
from penguindome_server.publication import CONNECTION_KEY, REPOSITORIES
from penguindome_server.web import Web

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ESCAPED_SLASH = re.compile(r"%(2f|5c|00)", re.IGNORECASE)


def view(web: Web, environ: Mapping[str, Any]) -> Answer:
    """A file of the publication that this connection sees, for those who may have releases."""
    parts = environ["PATH_INFO"].partition("/repo/")[2].split("/")
    kind = parts[0] if parts[0] in REPOSITORIES else "other"
    with refusals_counted(web.metrics, kind):
        web.download_access.require(environ, web.peers.address(environ))
        if _ESCAPED_SLASH.search(str(environ.get("RAW_URI", "")).partition("?")[0]):
            raise FileNotFoundError("a slash that is written otherwise separates nothing")
        file = web.publications.open(parts, environ.get(CONNECTION_KEY))
        # Such a file is called after its contents.
        sha256 = parts[-1] if parts[-2] == "SHA256" and _SHA256.fullmatch(parts[-1]) else None
        return file_answer(environ, file, partial(web.metrics.downloaded, kind), sha256=sha256)
