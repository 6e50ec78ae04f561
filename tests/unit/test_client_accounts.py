"""Who is a human being on a machine, and whose home may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from penguindome.client import accounts

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
syslog:x:104:110::/home/syslog:/usr/sbin/nologin
alice:x:1000:1000:Alice,,,:/home/alice:/bin/bash
bob:x:1001:1001::/home/bob:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
nfsnobody:x:59999:59999::/var/lib/nfs:/sbin/nologin
high:x:60000:100::/home/high:/bin/sh
higher:x:60001:100::/home/higher:/bin/sh
+@staff:x:::::
+
broken:x:abc:1::/home/broken:/bin/sh
-minus:x:1002:1::/home/minus:/bin/sh
short:x:1003
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "passwd").write_text(PASSWD)
    return tmp_path


def names(etc: Path) -> list[str]:
    return [each.name for each in accounts.people(accounts.read_accounts(etc), accounts.range_of_people(etc))]


def test_people_are_local_accounts_with_a_number_of_login_defs(etc: Path) -> None:
    assert names(etc) == ["alice", "bob", "high"]
    (etc / "login.defs").write_text("# UID_MIN 5\nUID_MIN\t\t 1001\nUID_MAX 0xEA61\nSYS_UID_MAX 999\n")
    assert names(etc) == ["bob", "high", "higher"]


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_nobody_hides_behind_what_he_calls_himself(etc: Path, character: str) -> None:
    (etc / "passwd").write_text(PASSWD.replace("Alice,,,", f"Alice,{character},,"))
    assert names(etc) == ["alice", "bob", "high"]


def test_a_range_that_is_nonsense_never_takes_root_or_nobody(etc: Path) -> None:
    (etc / "login.defs").write_text("UID_MIN 0\nUID_MAX 70000\n")
    assert not {"root", "nobody", "nfsnobody"} & set(names(etc))
    (etc / "login.defs").write_text("UID_MIN many\nUID_MAX\n")
    assert names(etc) == ["alice", "bob", "high"]


def refused(etc: Path, home: str, name: str = "alice", real: str | None = None) -> str | None:
    text = (etc / "passwd").read_text().replace(":/home/alice:", f":{home}:")
    (etc / "passwd").write_text(text)
    everybody = accounts.read_accounts(etc)
    humans = accounts.people(everybody, accounts.range_of_people(etc))
    (account,) = (each for each in humans if each.name == name)
    return accounts.refusal(account, real or account.home, everybody, humans)


@pytest.mark.parametrize(
    "home", ["/home/alice", "/srv/homes/alice", "/data/home/alice", "/var/home/alice", "/home/x/y"]
)
def test_a_home_of_ones_own_may_be_deleted(etc: Path, home: str) -> None:
    assert refused(etc, home) is None


@pytest.mark.parametrize(
    "home",
    [
        "/", "/home", "/root", "/root/alice", "/usr", "/usr/local/alice", "/etc/alice", "/var", "/var/lib/jenkins",
        "/var/home", "/opt/app", "/boot/x", "/dev/shm/alice", "/proc/1", "/run/user/1000", "/tmp", "/srv", "relative",
        "", "/lib/modules", "/snap/x",
    ],
)  # fmt: skip
def test_a_directory_of_the_system_is_nobodys_home(etc: Path, home: str) -> None:
    assert refused(etc, home) is not None


def test_where_links_lead_counts(etc: Path) -> None:
    assert refused(etc, "/home/alice", real="/usr/share") is not None


def test_a_home_that_is_an_accounts_which_stays_is_not_deleted(etc: Path) -> None:
    assert "syslog" in str(refused(etc, "/home/syslog"))


def test_a_home_that_holds_that_of_an_account_which_stays_is_not_deleted(etc: Path) -> None:
    (etc / "passwd").write_text(PASSWD + "robot:x:200:200::/home/bob/robot:/bin/sh\n")
    assert "robot" in str(refused(etc, "/home/alice", name="bob"))


def test_a_home_that_people_share_goes_with_them(etc: Path) -> None:
    assert refused(etc, "/home/bob") is None


def test_numbers_of_containers_are_those_beyond_accounts(etc: Path) -> None:
    (etc / "subuid").write_text("alice:100000:65536\nbob:165536:65536\nalice:1:1000\nalice:x:1\n")
    assert accounts.subordinate_numbers(etc, "alice") == [range(100000, 165536)]
