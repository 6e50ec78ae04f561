"""Patches: what is applied, once and wholly, what is refused, and what comes of what somebody planted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from client_peer import Fault, Machine, Peer, error, soon
from needs import require
from penguindome import json, processes
from penguindome.actions import Target
from penguindome.client import generations, overlay
from penguindome.client.action_records import RELEASE_COMMAND, Records
from penguindome.openpgp import DeviceKey
from penguindome.settings import write_fragment

HELLO = '#!/bin/sh\necho \'{"said": "patched"}\'\n'
SAYS = "#!/bin/sh\necho '\"WORD\"'\n"


def reported(machine: Machine) -> dict[str, Any]:
    """The newest report's plugins, collected after a minute that takes what is offered."""
    machine.minute()
    machine.collect()
    machine.minute()
    plugins: dict[str, Any] = machine.peer.reports[-1]["plugins"]
    return plugins


def laid(machine: Machine) -> list[str]:
    """The paths of the patches in force."""
    patches = machine.client().installed().overlay
    return [] if patches is None else patches.paths


def test_a_patch_changes_and_adds_plugins_which_run_in_the_same_minute(enrolled: Machine, peer: Peer) -> None:
    patch = enrolled.patch({"plugins/hello.sh": HELLO, "plugins/new.sh": SAYS})
    enrolled.minute()
    assert peer.endpoints() == ["update", "acknowledge_patch", "submit"]
    assert peer.results[patch] == [
        {"status": "done", "reason": None, "finished_at": peer.results[patch][0]["finished_at"]}
    ]
    plugins = peer.reports[-1]["plugins"]
    assert (plugins["hello"], plugins["new"]) == ({"said": "patched"}, "WORD")
    assert plugins["penguindome"]["patches"] == ["plugins/hello.sh", "plugins/new.sh"]
    assert plugins["penguindome"]["verification"] == []
    assert "patched" not in (enrolled.paths.client_code / "plugins/hello.sh").read_text()


def test_files_of_a_patch_have_the_signed_mode_and_are_out_of_reach_for_others(enrolled: Machine) -> None:
    old = os.umask(0)
    try:
        enrolled.patch({"plugins/new.sh": SAYS}, mode=0o751)
        enrolled.minute()
    finally:
        os.umask(old)
    generation = generations.in_force(enrolled.paths.client_state)
    assert generation is not None
    assert stat.S_IMODE((generation / "plugins/new.sh").stat().st_mode) == 0o751
    for directory in (generation.parent, generation, generation / "plugins"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_patch_that_removes_makes_a_plugin_be_gone_until_the_next_release(enrolled: Machine, peer: Peer) -> None:
    enrolled.patch({"plugins/new.sh": SAYS})
    enrolled.minute()
    enrolled.patch({}, remove=["plugins/hello.sh", "plugins/new.sh"])
    enrolled.minute()
    plugins = peer.reports[-1]["plugins"]
    assert not {"hello", "new"} & set(plugins)
    assert plugins["penguindome"]["patches"] == ["plugins/hello.sh", "plugins/new.sh"]
    assert plugins["penguindome"]["verification"] == []
    peer.lay(enrolled.paths.client_code, release=1)
    enrolled.minute()
    plugins = peer.reports[-1]["plugins"]
    assert plugins["hello"] == {"said": "hello"}
    assert plugins["penguindome"]["patches"] == []


def test_a_new_release_clears_the_patches_and_what_they_left(enrolled: Machine, peer: Peer) -> None:
    enrolled.patch({"plugins/new.sh": SAYS, "settings/site.yml": "schedule.collect_interval: 1h\n"}, mode=0o644)
    enrolled.minute()
    assert enrolled.client().settings["schedule.collect_interval"] == timedelta(hours=1)
    peer.lay(enrolled.paths.client_code, release=1)
    enrolled.minute()
    state = enrolled.paths.client_state
    assert not os.path.lexists(state / generations.LINK)
    assert list((state / generations.DIRECTORY).iterdir()) == []
    assert enrolled.client().settings["schedule.collect_interval"] == timedelta(minutes=15)


def test_a_patch_that_was_applied_before_a_release_is_not_applied_after_it(enrolled: Machine, peer: Peer) -> None:
    enrolled.patch({"plugins/new.sh": SAYS})
    kept = list(peer.patches)
    enrolled.minute()
    peer.lay(enrolled.paths.client_code, release=1)
    enrolled.minute()
    peer.patches = kept
    enrolled.minute()
    assert laid(enrolled) == []


@pytest.mark.parametrize("removes", [False, True])
def test_a_patch_that_was_kept_back_does_not_undo_a_newer_one(enrolled: Machine, peer: Peer, *, removes: bool) -> None:
    """The server's database is in somebody's hands, who withholds one patch until the one after it was applied."""
    older = {"files": {}, "remove": ["plugins/hello.sh"]} if removes else {"files": {"plugins/hello.sh": SAYS}}
    enrolled.patch({"plugins/hello.sh": HELLO})
    enrolled.minute()
    kept_back = enrolled.patch(**older, issued_at=peer.clock() - timedelta(hours=1))
    unrelated = enrolled.patch({"plugins/new.sh": SAYS}, issued_at=peer.clock() - timedelta(hours=1))
    assert reported(enrolled)["hello"] == {"said": "patched"}
    assert peer.results[kept_back][0]["status"] == "failed"
    assert "issued later" in peer.results[kept_back][0]["reason"]
    assert peer.results[unrelated][0]["status"] == "done"


def test_a_patch_that_was_kept_back_does_not_undo_a_newer_release(enrolled: Machine, peer: Peer) -> None:
    """It is withheld until a release with a better plugin is in force, and may live for months."""
    peer.lay(enrolled.paths.client_code, release=5)
    enrolled.minute()
    old = peer.action(enrolled.target, files={"plugins/hello.sh": (b"#!/bin/sh\necho '\"old\"'\n", 0o755)})
    peer.lay(enrolled.paths.client_code, release=6)
    enrolled.minute()
    peer.patches.append(old)
    assert reported(enrolled)["hello"] == {"said": "hello"}
    (result,) = peer.results[old["id"]]
    assert result["status"] == "failed"
    assert result["reason"] == "it was issued before release 6, which is in force here"


@pytest.mark.parametrize("release", [5, 6])
def test_a_patch_is_for_the_releases_that_there_were_when_it_was_issued(
    enrolled: Machine, peer: Peer, release: int
) -> None:
    """Some machines have the canary already, and the others the release before."""
    peer.lay(enrolled.paths.client_code, release=release)
    enrolled.minute()
    patch = enrolled.patch({"plugins/new.sh": SAYS}, newest_release=6)
    enrolled.minute()
    assert [result["status"] for result in peer.results[patch]] == ["done"]
    assert laid(enrolled) == ["plugins/new.sh"]


def test_settings_of_a_patch_lie_below_the_administrators_own(enrolled: Machine) -> None:
    write_fragment(enrolled.paths.settings / "client.d/50.yml", {"plugins.timeout": 7}, mode=0o600)
    enrolled.patch({"settings/site.yml": "plugins.timeout: 9\nplugins.disabled: [hello]\n"}, mode=0o644)
    assert "hello" not in reported(enrolled)
    settings = enrolled.client().settings
    assert settings["plugins.timeout"] == timedelta(seconds=7)
    assert "generations" in str(settings.origin("plugins.disabled"))


def test_settings_that_do_not_fit_refuse_the_whole_patch(enrolled: Machine, peer: Peer) -> None:
    patch = enrolled.patch({"plugins/new.sh": SAYS, "settings/site.yml": "spool.max_bytes: many\n"}, mode=0o644)
    enrolled.minute()
    (result,) = peer.results[patch]
    assert result["status"] == "failed"
    assert "site.yml:1: spool.max_bytes" in result["reason"]
    assert laid(enrolled) == []
    assert list((enrolled.paths.client_state / generations.DIRECTORY).iterdir()) == []


def test_settings_of_a_patch_that_stopped_to_fit_are_left_out_and_warned_of(enrolled: Machine) -> None:
    enrolled.patch({"settings/site.yml": "plugins.timeout: 9\n"}, mode=0o644)
    enrolled.minute()
    generation = generations.in_force(enrolled.paths.client_state)
    assert generation is not None
    (generation / "settings/site.yml").write_text("plugins.timeout: [1]\n")
    settings = enrolled.client().settings
    assert settings["plugins.timeout"] == timedelta(minutes=2)
    assert any("patches are left out" in warning for warning in settings.warnings)
    assert enrolled.run("run").returncode == 0


def test_one_bad_action_does_not_keep_the_others_from_being_applied(enrolled: Machine, peer: Peer) -> None:
    peer.patches = ["nonsense", {"id": 7}, {"id": "x", "text": "forged", "signature": "none"}, None]
    bad = enrolled.patch({"plugins/a": SAYS, "settings/bad.yml": "schedule: 7\n"}, mode=0o644)
    good = enrolled.patch({"plugins/new.sh": SAYS})
    enrolled.minute()
    assert [result["status"] for result in peer.results[bad]] == ["failed"]
    assert [result["status"] for result in peer.results[good]] == ["done"]
    assert laid(enrolled) == ["plugins/new.sh"]


def test_a_patch_that_turns_a_file_into_a_directory_is_refused(enrolled: Machine, peer: Peer) -> None:
    patch = enrolled.patch({"plugins/hello.sh/inner": SAYS})
    enrolled.minute()
    assert "both a file and a directory" in peer.results[patch][0]["reason"]
    assert reported(enrolled)["hello"] == {"said": "hello"}


def test_removing_what_is_not_there_is_a_failure_that_is_told(enrolled: Machine, peer: Peer) -> None:
    patch = enrolled.patch({"plugins/new.sh": SAYS}, remove=["plugins/hello"])
    enrolled.minute()
    assert peer.results[patch][0]["reason"] == "there is no plugins/hello here that could be removed"
    assert laid(enrolled) == []


def _forged(machine: Machine, made: dict[str, Any], how: str) -> dict[str, Any]:
    """An action as somebody changes it who has the database and not the key."""
    text = made["text"]
    match how:
        case "another key":
            target = machine.target
            return machine.peer.action(
                target, files={"plugins/new.sh": (b"evil", 0o755)}, signer=DeviceKey.generate("x")
            )
        case "another path":
            return {**made, "text": text.replace("plugins/new.sh", "plugins/../../../../etc/cron.d/x")}
        case "another machine's":
            return {**made, "text": text.replace(machine.target.client_id, "0" * 40)}
        case "a later end":
            return {**made, "text": text.replace('"expires_at":"20', '"expires_at":"21')}
        case "another id":
            return {**made, "text": text.replace(made["id"], "0" * 32)}
        case "no signature":
            return {**made, "signature": ""}
        case _:
            return {**made, "text": text + " "}


@pytest.mark.parametrize(
    "how",
    ["another key", "another path", "another machine's", "a later end", "another id", "no signature", "a blank more"],
)
def test_what_is_not_signed_as_it_stands_changes_nothing_and_is_not_answered(
    enrolled: Machine, peer: Peer, how: str
) -> None:
    made = peer.action(enrolled.target, files={"plugins/new.sh": (SAYS.encode(), 0o755)})
    peer.patches = [_forged(enrolled, made, how)]
    before = sorted(path.name for path in enrolled.paths.client_state.iterdir())
    enrolled.minute()
    assert dict(peer.results) == {}
    assert laid(enrolled) == []
    assert sorted(path.name for path in enrolled.paths.client_state.iterdir()) == sorted([*before, "actions"])
    refused = enrolled.client().records.refusals()
    assert len(refused) == 1
    enrolled.minute()
    assert enrolled.client().records.refusals() == refused


@pytest.mark.parametrize("what", ["other contents", "a file more", "a file less", "no base64", "far too much", "none"])
def test_contents_that_are_not_what_was_signed_refuse_the_patch(enrolled: Machine, peer: Peer, what: str) -> None:
    patch = enrolled.patch({"plugins/new.sh": SAYS})
    (made,) = peer.patches
    made["contents"] = {
        "other contents": {"plugins/new.sh": "ZXZpbA=="},
        "a file more": {**made["contents"], "plugins/more.sh": "ZXZpbA=="},
        "a file less": {},
        "no base64": {"plugins/new.sh": "?"},
        "far too much": {"plugins/new.sh": "A" * (13 << 20)},
        "none": None,
    }[what]
    enrolled.minute()
    assert [result["status"] for result in peer.results[patch]] == ["failed"]
    assert laid(enrolled) == []


def test_an_action_for_another_machine_is_refused(enrolled: Machine, peer: Peer) -> None:
    patch = peer.offer(Target("A" * 40, enrolled.target.hostname), files={"plugins/new.sh": (SAYS.encode(), 0o755)})
    enrolled.minute()
    assert laid(enrolled) == []
    assert peer.results[patch] == []
    assert "for another machine" in enrolled.client().records.refusals()[0]["reason"]


def test_an_action_for_this_machine_under_another_name_waits_until_it_is_called_so(
    enrolled: Machine, peer: Peer
) -> None:
    """A name that came over DHCP, for a day."""
    target = Target(enrolled.target.client_id, "elsewhere")
    patch = peer.offer(target, files={"plugins/new.sh": (SAYS.encode(), 0o755)})
    own = reported(enrolled)["penguindome"]
    assert own["actions_held_back"] == {
        patch: f"the patch {patch} is for this machine under the name elsewhere, and it is called"
        f" {enrolled.target.hostname}"
    }
    assert f"An action waits: the patch {patch} is for" in enrolled.run("status").stdout.decode()
    assert laid(enrolled) == []
    before = len(peer.requests)
    enrolled.minute()
    assert peer.endpoints()[before:] == ["update"]
    write_fragment(enrolled.paths.settings / "client.d/50.yml", {"hostname": "elsewhere"}, mode=0o600)
    own = reported(enrolled)["penguindome"]
    assert [result["status"] for result in peer.results[patch]] == ["done"]
    assert laid(enrolled) == ["plugins/new.sh"]
    assert "actions_held_back" not in own


def test_an_action_that_is_offered_under_another_id_is_refused_and_not_answered(enrolled: Machine, peer: Peer) -> None:
    patch = enrolled.patch({"plugins/new.sh": SAYS})
    peer.patches[0]["id"] = "0" * 32
    enrolled.minute()
    assert laid(enrolled) == []
    assert peer.results[patch] == []
    assert enrolled.client().records.refusals()[0]["reason"] == f"the patch {patch} was offered under another id"


def test_names_of_two_machines_do_not_make_one(enrolled: Machine, peer: Peer) -> None:
    own = enrolled.target
    peer.offer(
        Target("A" * 40, own.hostname), also_for=[Target(own.client_id, "elsewhere")],
        files={"plugins/new.sh": (SAYS.encode(), 0o755)},
    )  # fmt: skip
    enrolled.minute()
    assert laid(enrolled) == []


def test_an_expired_action_is_refused(enrolled: Machine, peer: Peer) -> None:
    patch = enrolled.patch({"plugins/new.sh": SAYS}, life=timedelta(hours=1))
    enrolled.later(hours=2)
    peer.clock = enrolled.clock
    enrolled.minute()
    assert laid(enrolled) == []
    assert peer.results[patch] == []
    # Once something was signed after its end, it is over for good.
    peer.publish(enrolled.paths.client_code)
    enrolled.minute()
    assert [result["reason"] for result in peer.results[patch]] == [f"the patch {patch} has expired"]
    assert laid(enrolled) == []


def test_an_action_that_expired_by_a_clock_that_ran_ahead_is_done_when_the_clock_is_right(
    enrolled: Machine, peer: Peer
) -> None:
    enrolled.later(days=400)
    patch = enrolled.patch({"plugins/new.sh": SAYS})
    own = reported(enrolled)["penguindome"]
    assert own["actions_held_back"] == {patch: f"the patch {patch} has expired, if this machine's clock is right"}
    assert (peer.results[patch], laid(enrolled)) == ([], [])
    enrolled.later(days=-400)
    assert "actions_held_back" not in reported(enrolled)["penguindome"]
    assert [result["status"] for result in peer.results[patch]] == ["done"]
    assert laid(enrolled) == ["plugins/new.sh"]


def test_an_action_that_is_offered_no_more_is_held_back_no_more(enrolled: Machine, peer: Peer) -> None:
    peer.offer(Target(enrolled.target.client_id, "elsewhere"), kind="wipe")
    enrolled.minute()
    assert len(enrolled.client().state.actions_held_back) == 1
    peer.patches.clear()
    enrolled.minute()
    assert enrolled.client().state.actions_held_back == {}


def test_a_clock_that_was_set_back_does_not_bring_an_expired_action_back(enrolled: Machine, peer: Peer) -> None:
    now = enrolled.clock()
    patch = enrolled.patch({"plugins/new.sh": SAYS}, issued_at=now - timedelta(days=10), life=timedelta(days=5))
    enrolled.later(days=-8)
    peer.clock = enrolled.clock
    enrolled.minute()
    assert "expired" in peer.results[patch][0]["reason"]
    assert laid(enrolled) == []


def test_the_newest_signed_time_is_that_of_actions_too(enrolled: Machine, peer: Peer) -> None:
    enrolled.patch({"plugins/new.sh": SAYS}, issued_at=enrolled.clock() + timedelta(minutes=20))
    old = enrolled.patch({"plugins/old.sh": SAYS}, life=timedelta(minutes=10))
    enrolled.minute()
    assert "expired" in peer.results[old][0]["reason"]
    assert laid(enrolled) == ["plugins/new.sh"]


def test_an_action_that_comes_again_is_answered_again_and_not_applied_again(enrolled: Machine, peer: Peer) -> None:
    patch = enrolled.patch({"plugins/new.sh": SAYS})
    kept = list(peer.patches)
    enrolled.minute()
    enrolled.patch({}, remove=["plugins/new.sh"])
    enrolled.minute()
    peer.patches = kept
    enrolled.minute()
    assert [result["status"] for result in peer.results[patch]] == ["done", "done"]
    assert "new" not in reported(enrolled)


def test_an_action_is_known_until_nobody_can_have_it_applied_again(enrolled: Machine, peer: Peer) -> None:
    patch = enrolled.patch({"plugins/new.sh": SAYS}, life=timedelta(hours=1))
    enrolled.minute()
    records = enrolled.client().records
    expiry = enrolled.clock() + timedelta(hours=1)
    records.prune(expiry + timedelta(days=29))
    assert records.knows(patch)
    records.prune(expiry + timedelta(days=31))
    assert not records.knows(patch)


def test_what_was_applied_and_could_not_be_told_is_told_later(enrolled: Machine, peer: Peer) -> None:
    patch = enrolled.patch({"plugins/new.sh": SAYS})
    peer.on_request = lambda endpoint: peer.faults.append(Fault(503)) if endpoint == "acknowledge_patch" else None
    enrolled.minute()
    assert dict(peer.results) == {}
    assert laid(enrolled) == ["plugins/new.sh"]
    peer.on_request = lambda endpoint: None
    peer.clock = enrolled.clock
    enrolled.later(minutes=5)
    enrolled.minute()
    assert [result["status"] for result in peer.results[patch]] == ["done"]
    assert enrolled.client().records.open_ids() == []


def test_a_result_that_the_server_does_not_want_is_not_told_for_ever(enrolled: Machine, peer: Peer) -> None:
    enrolled.patch({"plugins/new.sh": SAYS})

    def forget(endpoint: str) -> None:
        if endpoint == "acknowledge_patch":
            peer.patches.clear()
            peer.faults.append(error(404, "not-found"))

    peer.on_request = forget
    enrolled.minute()
    assert enrolled.client().records.open_ids() == []
    assert enrolled.client().state.failures == 0
    enrolled.minute()
    assert peer.endpoints().count("acknowledge_patch") == 1


def test_a_patch_that_comes_with_the_answer_to_a_report_is_applied_too(enrolled: Machine, peer: Peer) -> None:
    enrolled.collect()
    enrolled.patch({"plugins/new.sh": SAYS})
    enrolled.minute()
    assert peer.endpoints() == ["submit", "acknowledge_patch"]
    enrolled.minute()
    assert peer.reports[-1]["plugins"]["new"] == "WORD"


def test_a_signed_text_of_an_unknown_kind_is_answered_when_it_names_this_client(enrolled: Machine, peer: Peer) -> None:
    made = peer.action(enrolled.target, files={"plugins/new.sh": (SAYS.encode(), 0o755)})
    for target in (enrolled.target.client_id, "A" * 40):
        text = made["text"].replace('"patch"', '"dance"').replace(enrolled.target.client_id, target)
        made = {**made, "text": text, "signature": peer.server_key.sign(text.encode()).decode()}
        peer.patches.append(dict(made))
    peer.patches.reverse()
    enrolled.minute()
    assert [result["reason"] for result in peer.results[made["id"]]] == [
        "this is not a usable action: its kind is not known here"
    ]


@contextmanager
def patched(machine: Machine) -> Iterator[Path]:
    """The generation of a machine with a patch; what is in the block is reported at its end."""
    machine.patch({"plugins/new.sh": SAYS})
    machine.minute()
    generation = generations.in_force(machine.paths.client_state)
    assert generation is not None
    yield generation


def test_a_file_in_the_overlay_that_no_patch_names_is_reported_and_does_not_run(enrolled: Machine) -> None:
    with patched(enrolled) as generation:
        (generation / "plugins/extra.sh").write_text(f"#!/bin/sh\ntouch {enrolled.paths.root}/ran\necho 1\n")
        (generation / "plugins/extra.sh").chmod(0o755)
    plugins = reported(enrolled)
    assert plugins["penguindome"]["verification"] == [{"path": "overlay/plugins/extra.sh", "reason": "unsigned"}]
    assert "extra" not in plugins
    assert not (enrolled.paths.root / "ran").exists()


def test_a_one_time_command_of_a_patch_runs_once_and_is_reported(enrolled: Machine, peer: Peer) -> None:
    ran = enrolled.paths.root / "ran"
    enrolled.patch({"commands/once.sh": f"#!/bin/sh\necho x | tee -a {ran}\n"})
    enrolled.minute()
    records = enrolled.client().records
    assert soon(lambda: all(record.result is not None for record in records.open()))
    assert soon(lambda: not enrolled.is_busy(RELEASE_COMMAND))
    for _ in range(2):
        enrolled.minute()
    assert [report["commands"]["once"]["output"] for report in peer.reports if report["commands"]] == ["x\n"]
    enrolled.patch({"plugins/new.sh": SAYS})
    plugins = reported(enrolled)
    assert plugins["penguindome"]["verification"] == []
    assert ran.read_text() == "x\n"


@pytest.mark.parametrize("reason", ["changed", "mode", "missing", "link", "not-regular", "a device"])
def test_a_file_in_the_overlay_that_is_not_as_signed_is_reported_and_does_not_run(
    enrolled: Machine, reason: str
) -> None:
    with patched(enrolled) as generation:
        file = generation / "plugins/new.sh"
        match reason:
            case "changed":
                file.write_text(f"#!/bin/sh\ntouch {enrolled.paths.root}/ran\necho 1\n")
            case "mode":
                file.chmod(0o4755)
            case "missing":
                file.unlink()
            case "link":
                file.rename(enrolled.paths.root / "elsewhere")
                file.symlink_to(enrolled.paths.root / "elsewhere")
            case "not-regular":
                file.unlink()
                os.mkfifo(file, 0o755)
            case _:
                require(os.geteuid() == 0, "only root can make devices")
                file.unlink()
                os.mknod(file, 0o755 | stat.S_IFCHR, os.makedev(1, 5))
                reason = "not-regular"
    plugins = reported(enrolled)
    assert plugins["penguindome"]["verification"] == [{"path": "overlay/plugins/new.sh", "reason": reason}]
    assert plugins["new"]["plugin_failed"] is True
    assert not (enrolled.paths.root / "ran").exists()


def test_a_patch_in_the_overlay_that_is_not_signed_for_this_machine_counts_for_nothing(
    enrolled: Machine, peer: Peer
) -> None:
    with patched(enrolled) as generation:
        foreign = peer.action(Target("A" * 40, "elsewhere"), files={"plugins/new.sh": (SAYS.encode(), 0o755)})
        document = json.loads_plain((generation / overlay.PATCHES).read_bytes())
        document["patches"] = [{"text": foreign["text"], "signature": foreign["signature"]}]
        (generation / overlay.PATCHES).write_text(json.dumps(document))
    plugins = reported(enrolled)
    assert {"path": "overlay/patches.json", "reason": "unsigned"} in plugins["penguindome"]["verification"]
    assert "new" not in plugins


def test_an_overlay_that_cannot_be_read_is_reported_and_mended_by_the_next_patch(enrolled: Machine) -> None:
    with patched(enrolled) as generation:
        (generation / overlay.PATCHES).write_text("{")
    plugins = reported(enrolled)
    assert plugins["penguindome"]["verification"] == [{"path": "overlay/patches.json", "reason": "damaged"}]
    assert plugins["hello"] == {"said": "hello"}
    enrolled.patch({"plugins/new.sh": SAYS})
    plugins = reported(enrolled)
    assert plugins["penguindome"]["verification"] == []
    assert plugins["new"] == "WORD"


@pytest.mark.parametrize("planted", ["the link", "generations", "a generation's plugins", "a directory for the link"])
def test_links_that_were_planted_lead_no_patch_out_of_the_overlay(enrolled: Machine, planted: str) -> None:
    state, outside = enrolled.paths.client_state, enrolled.paths.root / "outside"
    (outside / "plugins").mkdir(parents=True)
    (outside / "plugins/evil.sh").write_text(f"#!/bin/sh\ntouch {enrolled.paths.root}/ran\necho 1\n")
    (outside / "plugins/evil.sh").chmod(0o755)
    (outside / "settings").mkdir()
    (outside / "settings/evil.yml").write_text("hostname: evil\n")
    match planted:
        case "the link":
            (state / generations.LINK).symlink_to(outside)
        case "generations":
            (state / generations.DIRECTORY).symlink_to(outside)
            (state / generations.LINK).symlink_to(f"{generations.DIRECTORY}/plugins")
        case "a directory for the link":
            (state / generations.LINK / "plugins").mkdir(parents=True)
        case _:
            with patched(enrolled) as generation:
                (generation / "plugins/new.sh").unlink()
                (generation / "plugins").rmdir()
                (generation / "plugins").symlink_to(outside / "plugins")
    before = sorted(str(path) for path in outside.rglob("*"))
    assert enrolled.client().settings["hostname"] == ""
    assert "evil" not in reported(enrolled)
    enrolled.patch({"plugins/evil.sh": SAYS})
    plugins = reported(enrolled)
    assert plugins["evil"] == "WORD"
    assert sorted(str(path) for path in outside.rglob("*")) == before
    assert "touch" in (outside / "plugins/evil.sh").read_text()
    assert not (enrolled.paths.root / "ran").exists()


def test_a_damaged_record_does_not_let_a_patch_be_applied_twice(enrolled: Machine, peer: Peer) -> None:
    patch = enrolled.patch({"plugins/new.sh": SAYS})
    kept = list(peer.patches)
    enrolled.minute()
    enrolled.patch({}, remove=["plugins/new.sh"])
    enrolled.minute()
    (enrolled.paths.client_state / f"actions/settled/{patch}.json").write_text("{")
    peer.patches = kept
    enrolled.minute()
    assert peer.results[patch][-1]["status"] == "failed"
    assert "new" not in reported(enrolled)


def test_a_full_disk_leaves_nothing_half_and_the_patch_is_applied_when_there_is_room(
    enrolled: Machine, peer: Peer
) -> None:
    require(os.geteuid() == 0, "only root can mount")
    directory, kept = enrolled.paths.client_state, enrolled.paths.root / "kept"
    directory.rename(kept)
    directory.mkdir(0o700)
    tmpfs = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(directory)]
    require(processes.run(tmpfs, timeout=10, check=False).returncode == 0, "a tmpfs cannot be mounted here")
    try:
        processes.run(["cp", "-a", f"{kept}/.", str(directory)], timeout=10)
        patch = enrolled.patch({"plugins/new.sh": SAYS, "plugins/large": SAYS + "#" * 200_000})
        with (directory / "filler").open("wb") as filler:
            filler.write(b"x" * 350_000)
        assert enrolled.run("run").returncode == 0
        assert dict(peer.results) == {}
        assert generations.in_force(directory) is None
        assert list((directory / generations.DIRECTORY).iterdir()) == []
        (directory / "filler").unlink()
        assert enrolled.run("run").returncode == 0
        assert [result["status"] for result in peer.results[patch]] == ["done"]
        assert laid(enrolled) == ["plugins/large", "plugins/new.sh"]
    finally:
        processes.run(["umount", str(directory)], timeout=10)


def test_status_and_verify_tell_of_patches_and_refusals(enrolled: Machine, peer: Peer) -> None:
    enrolled.patch({"plugins/new.sh": SAYS})
    peer.offer(Target("A" * 40, "elsewhere"), files={"plugins/x": (b"", 0o755)})
    enrolled.minute()
    said = enrolled.run("status").stdout.decode()
    assert "plugins/new.sh" in said
    assert "for another machine" in said
    document = json.loads(enrolled.run("status", "--json").stdout)
    assert document["patches"] == ["plugins/new.sh"]
    assert len(document["refused_actions"]) == 1
    assert "1 files are as signed (release 0, 1 paths patched)" in enrolled.run("verify").stdout.decode()


def test_records_of_another_type_are_refused(enrolled: Machine) -> None:
    directory = enrolled.paths.client_state / "actions/open"
    directory.mkdir(parents=True)
    path = directory / f"{'0' * 32}.json"
    path.write_text('{"format":1,"id":"x","kind":7,"accepted_at":"2026-01-01T00:00:00.000Z"}')
    records = Records(enrolled.paths.client_state / "actions")
    assert records.load("0" * 32) is None
    assert not path.exists()
