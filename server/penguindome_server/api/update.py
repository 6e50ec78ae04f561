"""`POST update`: a client polls for what is new."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from penguindome_server.authentication import authenticate
from penguindome_server.polls import Poll
from penguindome_server.refusals import Refusal
from penguindome_server.untrusted import integer_field, text_field
from penguindome_server.updates import Held, news
from penguindome_server.web import Web

BODY_BYTES = 65536
PACKAGE_KINDS = ("deb", "pacman", "tar", "source")

_SHA256 = re.compile(r"[0-9a-f]{64}")


def view(web: Web, environ: Mapping[str, Any]) -> dict[str, Any]:
    """Say what is new. Nothing is written but, a little later, that the client was seen."""
    now = web.services.clock()
    message = authenticate(
        environ,
        "update",
        identities=web.identities,
        limits=web.limits,
        body_limit=BODY_BYTES,
        data_limit=BODY_BYTES,
        now=now,
    )
    client_id, data = message.identity.client_id, message.data
    if data.get("package_kind") not in PACKAGE_KINDS:
        raise Refusal("invalid", f"package_kind is none of {', '.join(PACKAGE_KINDS)}")
    poll = Poll(
        seen_at=now,
        address=web.peers.address(environ),
        package_version=text_field(data, "package_version", longest=100),
        package_kind=data["package_kind"],
        release=integer_field(data, "old_release"),
    )
    answer = news(web.updates, client_id, held(data), now=now)
    web.polls.note(client_id, poll)
    return answer


def held(data: dict[str, Any]) -> Held:
    """The release and manifest that a client says it has. Raises Refusal."""
    manifest = data.get("manifest_sha256")
    if manifest is not None and (not isinstance(manifest, str) or _SHA256.fullmatch(manifest) is None):
        raise Refusal("invalid", "manifest_sha256 is neither null nor 64 hexadecimal digits")
    release = integer_field(data, "old_release") if "old_release" in data else 0
    return Held(release=release, manifest_sha256=manifest, tells_manifest="manifest_sha256" in data)
