"""Signed actions: what a client takes is what was signed, for this machine and this moment, and for no other place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from penguindome import actions, json
from penguindome.actions import (
    LONGEST_LIFE,
    Action,
    ActionRefused,
    ActionWaits,
    Target,
    build,
    require_contents,
    require_for,
)
from penguindome.errors import SignatureError
from penguindome.openpgp import DeviceKey

NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
HERE = Target("A" * 40, "laptop")
THERE = Target("B" * 40, "other")
ID = "0123456789abcdef" * 2
ENTRY = {"sha256": "0" * 64, "size": 1, "mode": "0755"}
TARGET = {"client_id": HERE.client_id, "hostname": HERE.hostname}

PATCH: Mapping[str, Any] = {
    "format": 1, "kind": "patch", "id": ID, "targets": [TARGET], "issued_at": NOW,
    "expires_at": NOW + timedelta(days=1), "files": {"plugins/x": ENTRY},
    "parameters": {"remove": [], "newest_release": 6},
}  # fmt: skip
COMMAND = {
    **PATCH, "kind": "command", "files": {"command": ENTRY}, "parameters": {"name": "x", "attempts": None},
}  # fmt: skip
WIPE = {**PATCH, "kind": "wipe", "files": {}, "parameters": {"reason": "lost", "luks": False}}


@pytest.fixture(scope="module")
def key() -> DeviceKey:
    """The server's key."""
    return DeviceKey.generate("server")


def parsed(content: Mapping[str, Any]) -> Action:
    data = json.dumps(content).encode()
    return Action.from_content(json.loads(data), data)


def made(**values: Any) -> bytes:
    own: dict[str, Any] = {
        "kind": "patch", "action_id": ID, "targets": [HERE], "issued_at": NOW, "expires_at": NOW + timedelta(days=1),
        "files": {"plugins/x": (b"contents", 0o755)}, "parameters": {"remove": [], "newest_release": 6}, **values,
    }  # fmt: skip
    return build(**own)


def test_what_was_built_and_signed_is_read_again(key: DeviceKey) -> None:
    parameters = {"remove": ["plugins/y"], "newest_release": 6}
    data = made(targets=[HERE, THERE], parameters=parameters)
    action = Action.load(data, key.sign(data), key.certificate)
    assert (action.kind, action.id, action.targets) == ("patch", ID, (HERE, THERE))
    assert (action.issued_at, action.expires_at) == (NOW, NOW + timedelta(days=1))
    assert action.files["plugins/x"].mode == 0o755
    assert action.files["plugins/x"].size == len(b"contents")
    assert action.parameters == parameters
    assert action.data == data


def test_an_action_by_another_key_is_refused(key: DeviceKey) -> None:
    data = made()
    with pytest.raises(SignatureError):
        Action.load(data, DeviceKey.generate("attacker").sign(data), key.certificate)


def test_the_signature_is_looked_at_before_the_text_is(key: DeviceKey) -> None:
    with pytest.raises(SignatureError):
        Action.load(b"no JSON", b"no signature", key.certificate)
    with pytest.raises(ActionRefused):
        Action.load(b"no JSON", key.sign(b"no JSON"), key.certificate)


def test_a_text_that_is_too_large_is_not_even_verified(key: DeviceKey) -> None:
    with pytest.raises(ActionRefused, match="too large"):
        Action.load(b" " * (actions.LARGEST + 1), b"no signature", key.certificate)


@pytest.mark.parametrize("content", [PATCH, COMMAND, WIPE], ids=lambda content: str(content["kind"]))
def test_each_kind_is_accepted(content: Mapping[str, Any]) -> None:
    assert parsed(content).kind == content["kind"]


def file(name: str, **changes: Any) -> dict[str, Any]:
    return {**PATCH, "files": {name: {**ENTRY, **changes}}}


def lives(content: Mapping[str, Any], **duration: float) -> dict[str, Any]:
    return {**content, "expires_at": NOW + timedelta(**duration)}


def patch(**changes: Any) -> dict[str, Any]:
    return {**PATCH, "parameters": {**PATCH["parameters"], **changes}}


def command(**changes: Any) -> dict[str, Any]:
    return {**COMMAND, "parameters": {**COMMAND["parameters"], **changes}}


def wipe(**changes: Any) -> dict[str, Any]:
    return {**WIPE, "parameters": {**WIPE["parameters"], **changes}}


UNUSABLE: dict[str, Any] = {
    "no object": [],
    "a key more": {**PATCH, "more": 1},
    "a key less": {name: value for name, value in PATCH.items() if name != "parameters"},
    "another format": {**PATCH, "format": 2},
    "a format that equals one": {**PATCH, "format": True},
    "an unknown kind": {**PATCH, "kind": "shell"},
    "a kind that is no text": {**PATCH, "kind": ["patch"]},
    "a short id": {**PATCH, "id": ID[:-1]},
    "an id with a path in it": {**PATCH, "id": "../" + ID[3:]},
    "an id in capitals": {**PATCH, "id": ID.upper()},
    "times that are text": {**PATCH, "issued_at": "today"},
    "an end before the beginning": lives(PATCH, seconds=-1),
    "no life at all": lives(PATCH, seconds=0),
    "a patch that lives too long": lives(PATCH, days=90, seconds=1),
    "a command that lives too long": lives(COMMAND, days=30, seconds=1),
    "a wipe that lives too long": lives(WIPE, days=365, seconds=1),
    "no target": {**PATCH, "targets": []},
    "a target by name alone": {**PATCH, "targets": [{"hostname": "laptop"}]},
    "a target that is any client": {**PATCH, "targets": [{**TARGET, "client_id": {"$gt": ""}}]},
    "a target with a short id": {**PATCH, "targets": [{**TARGET, "client_id": "A" * 39}]},
    "a target without a name": {**PATCH, "targets": [{**TARGET, "hostname": ""}]},
    "an absolute path": file("/etc/passwd"),
    "a path that leads up": file("plugins/../../etc/passwd"),
    "a path that begins above": file("../plugins/x"),
    "a path through a dot": file("plugins/./x"),
    "a path with an empty part": file("plugins//x"),
    "a path with a backslash": file("plugins/..\\x"),
    "a path with NUL": file("plugins/x\0"),
    "a path with a newline": file("plugins/x\ny"),
    "a directory alone": file("plugins"),
    "a directory with a slash": file("plugins/"),
    "a path elsewhere": file("code/penguindome/trust.py"),
    "a directory that only begins so": file("plugins-of-mine/x"),
    "settings in a directory": file("settings/a/b.yml"),
    "settings of another ending": file("settings/x.py"),
    "settings that are hidden": file("settings/.yml"),
    "a set-user-id mode": file("plugins/x", mode="4755"),
    "a mode that is a number": file("plugins/x", mode=0o755),
    "a negative size": file("plugins/x", size=-1),
    "a size that equals one": file("plugins/x", size=True),
    "contents of more than 8 MiB": file("plugins/x", size=actions.LARGEST_CONTENTS + 1),
    "a hash in capitals": file("plugins/x", sha256="A" * 64),
    "a file that is a directory too": {**PATCH, "files": {"plugins/x": ENTRY, "plugins/x/y": ENTRY}},
    "a patch that changes nothing": {**PATCH, "files": {}},
    "a path that is added and removed": patch(remove=["plugins/x"]),
    "a path that is removed twice": patch(remove=["plugins/y", "plugins/y"]),
    "a removal elsewhere": patch(remove=["code/x"]),
    "a removal that leads up": patch(remove=["plugins/../x"]),
    "a removal that is no text": patch(remove=[1]),
    "a patch for whatever releases come": {**PATCH, "parameters": {"remove": []}},
    "a newest release that is no number": patch(newest_release=True),
    "a newest release below none": patch(newest_release=-1),
    "parameters of another kind": {**PATCH, "parameters": WIPE["parameters"]},
    "a patch that calls itself a command": {**PATCH, "kind": "command"},
    "a command that calls itself a patch": {**COMMAND, "kind": "patch"},
    "a command that calls itself a wipe": {**COMMAND, "kind": "wipe"},
    "a wipe that calls itself a command": {**WIPE, "kind": "command"},
    "a command of two files": {**COMMAND, "files": {"command": ENTRY, "plugins/x": ENTRY}},
    "no attempts": command(attempts=0),
    "too many attempts": command(attempts=1001),
    "attempts that equal one": command(attempts=True),
    "a name with a path in it": command(name="../x"),
    "a name that is an option": command(name="-x"),
    "a name that is too long": command(name="x" * 65),
    "a wipe with files": {**WIPE, "files": {"command": ENTRY}},
    "a wipe without a reason": wipe(reason=""),
    "a reason that moves the cursor": wipe(reason="\x1b[2J"),
    "luks that is a number": wipe(luks=1),
}


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_breaks_a_rule_is_refused(content: Any) -> None:
    with pytest.raises(ActionRefused):
        parsed(content)


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1755])
def test_no_text_is_made_for_a_set_id_mode(mode: int) -> None:
    with pytest.raises(ActionRefused):
        made(files={"plugins/x": (b"", mode)})


def test_no_text_is_made_for_more_targets_than_it_has_room_for() -> None:
    many = [Target(f"{number:040X}", f"host{number}") for number in range(8000)]
    with pytest.raises(ActionRefused, match="too large"):
        made(targets=many)


def test_an_action_is_for_the_machine_of_which_it_names_both_id_and_host_name() -> None:
    action = parsed(json.loads(made(targets=[HERE, THERE])))
    require_for(action, client_id=HERE.client_id, hostname=HERE.hostname, now=NOW, newest_signed_at=NOW)
    for client_id in ("C" * 40, HERE.client_id.lower()):
        with pytest.raises(ActionRefused, match="another machine") as refused:
            require_for(action, client_id=client_id, hostname=HERE.hostname, now=NOW, newest_signed_at=None)
        assert not isinstance(refused.value, ActionWaits)
    for client_id, hostname in (
        (HERE.client_id, THERE.hostname), (THERE.client_id, HERE.hostname), (HERE.client_id, "laptop.example"),
        (HERE.client_id, ""),
    ):  # fmt: skip
        with pytest.raises(ActionWaits, match="and it is called"):
            require_for(action, client_id=client_id, hostname=hostname, now=NOW, newest_signed_at=None)


def test_an_action_is_good_until_the_moment_at_which_it_expires() -> None:
    action = parsed(PATCH)
    before = action.expires_at - timedelta(milliseconds=1)

    def judge(now: datetime, newest_signed_at: datetime) -> None:
        own = {"client_id": HERE.client_id, "hostname": HERE.hostname}
        require_for(action, **own, now=now, newest_signed_at=newest_signed_at)

    judge(before, before)
    with pytest.raises(ActionWaits, match="expired, if this machine's clock is right"):
        judge(action.expires_at, before)
    for now in (before, action.expires_at):
        with pytest.raises(ActionRefused, match="expired") as refused:
            judge(now, action.expires_at)
        assert not isinstance(refused.value, ActionWaits)


@pytest.mark.parametrize(
    "contents",
    [
        {}, {"plugins/x": b"contentz"}, {"plugins/x": b"content"}, {"plugins/x": b"contents "},
        {"plugins/y": b"contents"}, {"plugins/x": b"contents", "plugins/y": b""},
    ],
)  # fmt: skip
def test_contents_are_exactly_those_that_were_signed(contents: dict[str, bytes]) -> None:
    action = parsed(json.loads(made()))
    require_contents(action, {"plugins/x": b"contents"})
    with pytest.raises(ActionRefused):
        require_contents(action, contents)


PARTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S"), exclude_characters="/\\"), max_size=20)
PATHS = st.builds("/".join, st.lists(PARTS, min_size=1, max_size=4)).map(lambda rest: f"plugins/{rest}")
TARGETS = st.builds(
    Target, st.from_regex("[0-9A-F]{40}", fullmatch=True), st.from_regex("[a-z0-9]{1,63}", fullmatch=True)
)
IDS = st.from_regex("[0-9a-f]{32}", fullmatch=True)


@st.composite
def orders(draw: Callable[..., Any]) -> dict[str, Any]:
    """What `build` is given, of any kind; some of it is refused."""
    kind = draw(st.sampled_from(sorted(LONGEST_LIFE)))
    files: dict[str, tuple[bytes, int]] = {}
    parameters: dict[str, Any] = {"reason": draw(st.text(min_size=1, max_size=30)), "luks": draw(st.booleans())}
    if kind == "patch":
        files = draw(st.dictionaries(PATHS, st.tuples(st.binary(max_size=50), st.integers(0, 0o777)), max_size=3))
        parameters = {"remove": draw(st.lists(PATHS, max_size=3)), "newest_release": draw(st.integers(0, 1 << 31))}
    elif kind == "command":
        files = {"command": (draw(st.binary(max_size=50)), 0o700)}
        parameters = {"name": draw(st.text("aB9_-", min_size=1, max_size=64)),
                      "attempts": draw(st.none() | st.integers(1, 1000))}  # fmt: skip
    life = timedelta(seconds=draw(st.integers(1, int(LONGEST_LIFE[kind].total_seconds()))))
    return {
        "kind": kind, "action_id": draw(IDS), "targets": draw(st.lists(TARGETS, min_size=1, max_size=4)),
        "issued_at": NOW, "expires_at": NOW + life, "files": files, "parameters": parameters,
    }  # fmt: skip


@given(order=orders())
def test_whatever_can_be_built_reads_as_it_was_meant(order: dict[str, Any]) -> None:
    try:
        data = build(**order)
    except ActionRefused:
        assume(False)
        raise
    action = Action.from_content(json.loads(data), data)
    assert (action.kind, action.id, list(action.targets)) == (order["kind"], order["action_id"], order["targets"])
    assert (action.issued_at, action.expires_at) == (order["issued_at"], order["expires_at"])
    assert action.parameters == order["parameters"]
    assert {name: entry.mode for name, entry in action.files.items()} == {
        name: mode for name, (_content, mode) in order["files"].items()
    }
    contents = {name: content for name, (content, _mode) in order["files"].items()}
    require_contents(action, contents)
    for target in order["targets"]:
        require_for(action, client_id=target.client_id, hostname=target.hostname, now=NOW, newest_signed_at=None)


@given(position=st.integers(0), byte=st.integers(1, 255))
def test_no_byte_of_a_signed_action_can_be_changed(key: DeviceKey, position: int, byte: int) -> None:
    data = made()
    signature = key.sign(data)
    position %= len(data)
    changed = data[:position] + bytes([data[position] ^ byte]) + data[position + 1 :]
    with pytest.raises(SignatureError):
        Action.load(changed, signature, key.certificate)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=10) | st.just(NOW.isoformat()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, ...]]:
    """The ways to everything in a JSON value but its top."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(key, *rest) for key, inner in items for rest in [(), *places(inner)]]


def with_value(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    key, *rest = place
    changed = content.copy()
    changed[key] = with_value(content[key], tuple(rest), value)
    return changed


@given(data=st.data())
def test_any_value_in_any_place_is_taken_by_the_rules_or_refused_and_nothing_else(data: st.DataObject) -> None:
    content = json.loads(json.dumps(data.draw(st.sampled_from([PATCH, COMMAND, WIPE]))))
    changed = with_value(content, data.draw(st.sampled_from(places(content))), data.draw(VALUES))
    try:
        action = parsed(changed)
    except ActionRefused:
        return
    assert all(part not in ("", ".", "..") for path in action.files for part in path.split("/"))
    assert all(entry.mode <= 0o777 for entry in action.files.values())
    assert action.expires_at - action.issued_at <= LONGEST_LIFE[action.kind]
