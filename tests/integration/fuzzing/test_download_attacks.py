"""Attacks on releases and repositories: paths that lead elsewhere, credentials that are none, ranges and conditions."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hostile_requests import EXAMPLES, Reply, Target, head
from penguindome import json
from penguindome.times import utc_now
from penguindome_server.enrolment import revoke
from web_server import PREFIX, Device

fuzzed = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)

INDEX = bytes(range(256)) * 4
PATH = "repo/apt/dists/stable/InRelease"
TAR = "download_release?format=tar"
PREFIXES = (PREFIX, "/PenguinDome/v1/")

Lines = Callable[[Target], tuple[str, ...]]


def basic(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def given_to(device: Device) -> tuple[str, str]:
    """Enrol; the repository credentials."""
    found = json.loads(device.key.decrypt(device.enroll().json()["repository_credentials"].encode()))
    return found["user"], found["password"]


def another(target: Target) -> Device:
    return target.server.device(f"reader-{secrets.token_hex(4)}")


def of_a_revoked_client(target: Target) -> tuple[str, ...]:
    user, password = given_to(another(target))
    revoke(target.server.store, user, who="test", now=utc_now())
    return (basic(user, password),)


def of_another_client(target: Target) -> tuple[str, ...]:
    _, password = given_to(another(target))
    return (basic(target.device.client_id, password),)


def the_hash_itself(target: Target) -> tuple[str, ...]:
    user, _ = given_to(another(target))
    return (basic(user, target.server.client(user)["repository_secret_hash"]),)


def of_a_waiting_client(target: Target) -> tuple[str, ...]:
    waiting = target.server.device(target.device.hostname)
    waiting.enroll()
    return (basic(waiting.client_id, ""),)


def good_and_bad(target: Target) -> tuple[str, ...]:
    return (basic(*given_to(another(target))), basic("x", "y"))


def written(*lines: str) -> Lines:
    return lambda _target: lines


ATTACKS: list[tuple[str, str, Lines, int, str]] = [
    ("out of the tree by dots", "repo/apt/../../../../secret", written(), 404, "not-found"),
    ("out of the tree by escaped dots", "repo/apt/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret", written(), 404, "not-found"),
    ("out of the tree by escaped slashes", "repo/apt%2f..%2f..%2f..%2fsecret", written(), 404, "not-found"),
    ("out of the tree by backslashes", "repo/apt\\..\\..\\..\\secret", written(), 404, "not-found"),
    ("out of the tree by double escapes", "repo/apt/%252e%252e/%252e%252e/secret", written(), 404, "not-found"),
    ("out of the tree by overlong dots", "repo/apt/%c0%ae%c0%ae/%c0%ae%c0%ae/secret", written(), 404, "not-found"),
    ("an absolute path", "repo//etc/passwd", written(), 404, "not-found"),
    ("a path with a NUL", "repo/apt/dists/stable/InRelease%00.deb", written(), 404, "not-found"),
    ("a link out of the tree", "repo/apt/link", written(), 404, "not-found"),
    ("through a link", "repo/apt/up/secret", written(), 404, "not-found"),
    ("a device", "repo/apt/device", written(), 404, "not-found"),
    ("a directory", "repo/apt/dists/stable", written(), 404, "not-found"),
    ("a directory with a slash", "repo/apt/", written(), 404, "not-found"),
    ("the link `current` itself", "repo/current/apt/dists/stable/InRelease", written(), 404, "not-found"),
    ("another repository", "repo/keys/server.fingerprint", written(), 404, "not-found"),
    ("a path of 1,000 parts", "repo/apt" + "/a" * 1000, written(), 404, "not-found"),
    ("a release by a path", "download_release?format=deb&release=../../keys", written(), 422, "invalid"),
    ("a release by another number", "download_release?format=deb&release=%D9%A1", written(), 422, "invalid"),
    ("a format by a path", "download_release?format=../release.json", written(), 422, "invalid"),
    ("a format twice", "download_release?format=deb&format=tar", written(), 422, "invalid"),
    ("a flood of fields", "download_release?" + "format=deb&" * 300, written(), 422, "invalid"),
    ("an operator for a release", "download_release?release[$gt]=0", written(), 422, "invalid"),
    ("a release that is not there", "download_release?format=deb&release=999999999", written(), 404, "not-found"),
    ("the tar without credentials", TAR, written(), 403, "not-allowed"),
    ("the tar for no user", TAR, written(basic("", "")), 401, "unauthorised"),
    ("the tar with what is not base64", TAR, written("Authorization: Basic !!"), 403, "not-allowed"),
    ("the tar with a token", TAR, written("Authorization: Bearer x"), 403, "not-allowed"),
    ("the tar for an operator", TAR, written(basic('{"$gt":""}', '{"$gt":""}')), 401, "unauthorised"),
    ("the tar for a client that is not known", TAR, written(basic("A" * 40, "x")), 401, "unauthorised"),
    ("the tar with credentials of a revoked client", TAR, of_a_revoked_client, 401, "unauthorised"),
    ("the tar with credentials of another client", TAR, of_another_client, 401, "unauthorised"),
    ("the tar with the hash from the database", TAR, the_hash_itself, 401, "unauthorised"),
    ("the tar for a client that waits", TAR, of_a_waiting_client, 401, "unauthorised"),
    ("the tar with two credentials", TAR, good_and_bad, 403, "not-allowed"),
    ("the tar from a forged address", TAR, written("X-Forwarded-For: 127.0.0.1"), 403, "not-allowed"),
    ("a range behind the end", PATH, written("Range: bytes=1024-"), 416, "range-not-satisfiable"),
    ("a range of nothing", PATH, written("Range: bytes=-0"), 416, "range-not-satisfiable"),
    ("another version", PATH, written('If-Match: "x"'), 412, "precondition-failed"),
]


@pytest.mark.parametrize(("path", "lines", "status", "code"), [pytest.param(*row[1:], id=row[0]) for row in ATTACKS])
def test_attack_on_downloads_is_refused(target: Target, path: str, lines: Lines, status: int, code: str) -> None:
    request = head(path, "Connection: close", *lines(target), method="GET")
    reply = target.refuses(lambda: target.wire(request))
    assert (reply.status, reply.code) == (status, code)
    assert b"secret" not in reply.body


@given(
    path=st.lists(
        st.sampled_from(("apt", "arch", "dists", "stable", "InRelease", "..", ".", "", "%2e%2e", "%2f", "link", "up",
                         "device", "secret", "current", "publications", "1", "%00", "\\"))
        | st.text(st.characters(min_codepoint=0x21, max_codepoint=0xff, exclude_characters="?#"), max_size=8),
        max_size=9,
    ),
    prefix=st.sampled_from(PREFIXES),
)  # fmt: skip
@example(path=["apt", "up", "up", "secret"], prefix=PREFIX)
@fuzzed
def test_a_path_is_one_of_those_published_or_is_not_there(target: Target, path: list[str], prefix: str) -> None:
    asked = "/".join(path)
    request = head("repo/" + asked, "Connection: close", method="GET", prefix=prefix)
    reply = target.survives(lambda: target.wire(request))
    if asked in ("apt/dists/stable/InRelease", "arch/penguindome.db"):
        assert reply.status == 200
    else:
        assert (reply.status, reply.code) in {(404, "not-found"), (400, "malformed")}


@given(
    range_=st.text(max_size=10) | st.builds(
        "{}{}{}-{}{}".format, st.sampled_from(("bytes=", "bytes = ", "BYTES=", "items=", "")),
        st.sampled_from(("", " ", "-", "0,")), st.integers(0, 3000) | st.just(""), st.integers(0, 3000) | st.just(""),
        st.sampled_from(("", ",5-6", " ", "x")),
    ),
    name=st.sampled_from(("X", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")),
    value=st.text(max_size=20) | st.sampled_from(("*", '""', 'W/"x"', "Thu, 01 Jan 1970 00:00:00 GMT", "0",
                                                  "Fri, 31 Dec 9999 23:59:59 GMT")),
    method=st.sampled_from(("GET", "HEAD")),
)  # fmt: skip
@fuzzed
def test_whatever_part_is_asked_for_what_comes_is_of_the_file(
    target: Target, range_: str, name: str, value: str, method: str
) -> None:
    def clean(text: str) -> str:
        return text.encode("latin-1", "ignore").translate(None, bytes(range(32)) + b"\x7f").decode("latin-1")

    lines = ("Connection: close", f"Range: {clean(range_)}", f"{name}: {clean(value)}")
    replies: list[Reply] = []

    def ask() -> Reply:
        replies.append(target.wire(head(PATH, *lines, method=method)))
        return replies[0]

    reply = target.survives(ask)
    assert reply.status in (200, 206, 304, 400, 412, 416)
    if reply.status in (200, 206):
        assert reply.body in INDEX
        assert reply.status == 206 or reply.body == (INDEX if method == "GET" else b"")
