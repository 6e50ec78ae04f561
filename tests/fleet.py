"""A fleet as its users see it: booted machines with the packages of this checkout, whose timers alone are at work."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import needs
from containers import DidNotHappen, Machine, Site, eventually
from penguindome import json
from roots import CHECKOUT, Finished

README = (CHECKOUT / "README.md").read_text()
URL = "https://penguindome.example.org:8443/penguindome/v1"
CA = "/var/lib/penguindome/tls/server.crt"
UNITS = ("penguindome-server", "penguindome-audit", "penguindome-repository", "penguindome-client")
# The timers are the package's own. Their period is too, in `make test-all`: else nobody waits for the minute to pass.
OFTEN = "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/10\nRandomizedDelaySec=0\nAccuracySec=1s\n"
TIMER = "/etc/systemd/system/penguindome-client.timer.d/often.conf"
A_FEW_MINUTES = 300
FORBIDDEN = ("Operation not permitted", "Permission denied", "Read-only", "status=31/SYS", "code=dumped")
BUNDLE = "/root/laptops.bundle"


def commands(prompt: str) -> list[str]:
    """What the README lets its reader type at this prompt."""
    return re.findall(rf"^{prompt}# (.*)$", README, re.MULTILINE)


def follow(machine: Machine, prompt: str, *, which: str = "", laptop: str = "laptop") -> str:
    """Type the README's commands that contain `which`, for the machine `laptop`, and say yes to what is asked."""
    found = [words for words in commands(prompt) if which in words]
    assert found, f"the README has no such command at {prompt}#"
    typed = [words.replace(" laptop ", f" {laptop} ") for words in found]
    return "".join(machine.shell(f"cd /root\n{words} <<< y").output for words in typed)


def shown(first: str) -> str:
    """The text that the README shows below this first line of a block."""
    found = re.search(rf"^```\w+\n{re.escape(first)}[^\n]*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"the README shows no such text: {first}"
    return found[1]


def clients(server: Machine) -> dict[str, dict[str, Any]]:
    """The server's list: host name -> client."""
    rows = json.loads(server.run("penguindome", "clients", "list", "--json").stdout)
    return {row["hostname"]: row for row in rows}


def is_healthy(server: Machine) -> bool:
    asked = server.run("curl", "--silent", "--fail", "--cacert", CA, f"{URL}/healthz", check=False)
    return asked.status == 0


def reports_after(server: Machine, host: str, before: Any) -> bool:
    row = clients(server)[host]
    return row["reported_at"] is not None and row["reported_at"] != before


def assert_quiet(machine: Machine) -> None:
    """No traceback anywhere, no failed unit, and nothing that the hardening of our units forbade."""
    assert "Traceback" not in machine.journal(), machine.journal()
    for unit in UNITS:
        journal = machine.journal(f"{unit}.service")
        for words in FORBIDDEN:
            assert words not in journal, journal
    assert machine.run("systemctl", "--failed", "--no-legend").stdout == ""


def prepare(site: Site, name: str, system: str, files: Iterable[Path], *options: str) -> Machine:
    """A machine with the packages in root's home, as somebody copied them there."""
    machine = site.prepare(name, system, *options)
    machine.root.at("/etc/machine-id").unlink(missing_ok=True)
    for file in files:
        shutil.copyfile(file, machine.root.at(f"/root/{file.name}"))
    if not needs.testing_all():
        machine.root.write(TIMER, OFTEN)
    return machine


def boot(machines: Sequence[Machine]) -> None:
    """Start machines side by side."""
    for machine in machines:
        machine.launch()
    for machine in machines:
        machine.wait_until_up()


def hand_over(server: Machine, client: Machine, name: str = BUNDLE, mode: int = 0o600) -> None:
    """Carry a file (the bundle) to the client, as root would."""
    client.root.write(name, server.root.at(name).read_text(), mode=mode)


class Fleet:
    """A server, and the machines that it watches over: what their administrator does, and what he sees."""

    def __init__(self, server: Machine, laptops: dict[str, Machine]) -> None:
        self.server, self.laptops = server, laptops

    @property
    def machines(self) -> list[Machine]:
        """All of them."""
        return [self.server, *self.laptops.values()]

    def install_server(self) -> None:
        """By the commands of the README."""
        follow(self.server, "server", which="./penguindome-server")
        self.eventually("the installed server answers", lambda: is_healthy(self.server))
        follow(self.server, "server", which="enrolment export")

    def penguindome(self, *words: str, check: bool = True, stdin: str = "") -> Finished:
        """Type `penguindome WORDS` on the server."""
        return self.server.run("penguindome", *words, check=check, stdin=stdin)

    def told(self, *words: str) -> Any:
        """What `penguindome WORDS --json` says."""
        return json.loads(self.penguindome(*words, "--json").stdout)

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """A file in /etc/penguindome of the server."""
        self.server.root.write(f"/etc/penguindome/{name}", text, mode)

    def remove(self, name: str) -> None:
        """Remove a file of /etc/penguindome of the server."""
        self.server.root.at(f"/etc/penguindome/{name}").unlink()

    def publish(self, message: str, *words: str) -> None:
        """Make and publish a release."""
        self.penguindome("release", "create", "--message", message, *words, "--yes")

    def enrol(self) -> None:
        """Approve all that wait, once all do."""
        self.eventually(
            "the timers ask for enrolment",
            lambda: (
                {name for name, row in clients(self.server).items() if row["state"] == "pending"} == set(self.laptops)
            ),
        )
        for name in self.laptops:
            follow(self.server, "server", which="clients approve", laptop=name)

    def client(self, name: str) -> dict[str, Any]:
        """The server's document of a client."""
        found: dict[str, Any] = self.told("clients", "show", name)
        return found

    def plugins(self, name: str) -> dict[str, Any]:
        """The last report of a client: plugin -> output."""
        found: dict[str, Any] = self.client(name).get("plugins") or {}
        return found

    def own(self, name: str) -> dict[str, Any]:
        """What the client last reported of itself."""
        found: dict[str, Any] = self.plugins(name).get("penguindome") or {}
        return found

    def releases(self) -> dict[str, int]:
        """Which release each client says that it has."""
        return {name: row["release"] for name, row in clients(self.server).items()}

    def reported(self, name: str, release: int) -> bool:
        """Whether the client's last report is of this release, with everything as signed."""
        own = self.own(name)
        return (own.get("release"), own.get("manifest"), own.get("verification")) == (release, "ok", [])

    def arrives(self, release: int, *names: str) -> None:
        """Wait until machines (all, if none is named) report a release, and that they moved to it by themselves."""
        for name in names or self.laptops:
            self.eventually(f"release {release} on {name}", lambda name=name: self.reported(name, release))

    def stays(self, release: int, *names: str) -> None:
        """Machines have this release still, after they asked once more what there is for them."""
        before = {name: row["last_seen_at"] for name, row in clients(self.server).items()}
        self.eventually(
            f"{names} ask again",
            lambda: all(clients(self.server)[name]["last_seen_at"] > before[name] for name in names),
        )
        # What the list says of releases is of a poll that may be a minute old; a report tells at once.
        found = {name: self.own(name).get("release") for name in names}
        assert found == dict.fromkeys(names, release), f"{found}\n{self.releases()}\n{self.said()}"

    def open_issues(self) -> set[tuple[str, str]]:
        """Client and name of each open issue."""
        return {(issue["client"], issue["issue"]) for issue in self.told("issues", "list", "--all")}

    def eventually(self, claim: str, condition: Callable[[], object], seconds: float = A_FEW_MINUTES) -> None:
        """See `containers.eventually`; a failure tells what the machines said."""
        try:
            eventually(claim, condition, seconds, pause=2)
        except DidNotHappen as error:
            raise DidNotHappen(f"{error}\n{self.said()}") from error

    def said(self) -> str:
        """The ends of the journals, and where each client thinks that it stands."""
        parts = [self.server.run("penguindome", "clients", "list", "--json", check=False).output]
        for machine in self.machines:
            journal = machine.run("journalctl", "--no-pager", "--output=short", "--lines=60", check=False)
            parts.append(f"== {machine.name}\n{journal.output}")
            if machine is not self.server:
                parts.append(machine.run("penguindome-client", "status", check=False).output)
        return "\n".join(parts)

    def assert_well(self) -> None:
        """All that the server keeps is whole and signed, and nobody complained."""
        for words in (("log", "verify"), ("release", "verify"), ("store", "check")):
            self.penguindome(*words)
        for machine in self.machines:
            assert_quiet(machine)
