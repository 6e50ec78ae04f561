"""Clean Debian systems for tests: directory trees that are made once, and laid under each test's own changes.

`fresh_root("debian12")` is a minimal Debian 12 as its installer leaves it, with systemd and without Python;
`debian12-ready` has what our packages depend on; `pacman` is the same with Debian's own pacman. What apt may want lies
in a repository inside of the tree, so that everything installs with the network cut off, as it always is in here.

Making a tree needs root, mmdebstrap and the network; using it needs root, systemd-nspawn and overlayfs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from needs import require, require_program

CHECKOUT = Path(__file__).resolve().parents[1]
HOME = CHECKOUT / ".cache/roots"
INSTANCES = HOME / "instances"

# What every Debian has, beyond what is essential, as far as packages may come to count on it.
BASE = ("systemd", "systemd-sysv", "dbus", "iproute2", "apt-utils")
# What a test, or a dependency of our packages, may ask apt for: it lies in the repository of the tree.
DEPENDENCIES = ("python3", "gnupg", "openssl", "ca-certificates", "adduser", "zstd")
ON_OFFER = (*DEPENDENCIES, "python3-venv", "cron", "logrotate", "curl", "bash-completion", "man-db")
PACMAN = ("pacman-package-manager", "makepkg", "libarchive-tools", "zstd")

RELEASES = {"debian12": "bookworm", "debian13": "trixie"}
LAYERS = {
    "debian12-ready": ("debian12", (*DEPENDENCIES, "curl", "logrotate")),
    "debian13-ready": ("debian13", (*DEPENDENCIES, "curl", "logrotate")),
    "pacman": ("debian12-ready", PACMAN),
}

# The repository is made with what the machine that builds packages has; apt wants no more than a list.
TO_REPOSITORY = r"""
cd "$1/srv/packages" && mv "$1"/var/cache/apt/archives/*.deb . && dpkg-scanpackages --multiversion . > Packages
rm -rf "$1"/var/lib/apt/lists/* "$1"/etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/srv/packages ./' > "$1/etc/apt/sources.list"
chroot "$1" apt-get --quiet=2 update
"""

# nspawn says this where /run is no file system of its own; it has nothing to do with the program that ran.
NOISE = b"Attempted to remove disk file system under"
OVER_THERE = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
}

# What changes by itself or keeps account of packages as such; see also `Root.files`.
VOLATILE = (
    *("dev", "proc", "run", "srv", "sys", "tmp", "var/cache/apt", "var/cache/debconf", "var/cache/ldconfig"),
    *("var/cache/man", "var/lib/apt", "var/lib/dpkg", "var/log/apt", "var/log/dpkg.log", "var/log/alternatives.log"),
    *("var/log/journal", "var/log/wtmp", "var/log/btmp", "var/log/lastlog", "var/tmp"),
)

_numbers = itertools.count(1)


def require_roots() -> None:
    """Go on where root can make and use such trees; see `needs.require`."""
    require(os.geteuid() == 0, "clean systems are made and used by root")
    for program in ("mmdebstrap", "systemd-nspawn", "dpkg-scanpackages", "mount", "setpriv"):
        require_program(program)


@dataclass(frozen=True)
class Finished:
    """What a command in a root said."""

    status: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class CommandFailed(AssertionError):
    """A command in a root did not end with 0."""


class Root:
    """A tree of a test's own: what the test changes is in `changes`, the rest is shared and stays as it is."""

    def __init__(self, directory: Path, lower: Sequence[Path], *, in_memory: bool = True) -> None:
        directory.mkdir(parents=True)
        if in_memory:
            # A package manager syncs without end, which costs minutes, and nothing of a test need outlive the machine.
            tmpfs = ["mount", "-t", "tmpfs", "-o", "mode=0755,size=4g", "penguindome-test", str(directory)]
            subprocess.run(tmpfs, check=True)
        self.name = f"pd{os.getpid()}-{directory.name.rpartition('-')[2]}"
        self.path, self.changes = directory / "tree", directory / "changes"
        for place in (self.path, self.changes, directory / "work"):
            place.mkdir()
        layers = ":".join(str(layer) for layer in lower)
        options = f"lowerdir={layers},upperdir={self.changes},workdir={directory / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "penguindome-test", "-o", options, str(self.path)], check=True)

    def run(
        self, *command: str, check: bool = True, timeout: float = 300, env: Mapping[str, str] | None = None,
        stdin: str | bytes = b"",
    ) -> Finished:  # fmt: skip
        """Run a command in the tree, as its only process, with no network but its own loopback."""
        process = subprocess.run(
            self.command(*command, env=env),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True, timeout=timeout, check=False,
        )  # fmt: skip
        return finished(command, process, check=check)

    def command(self, *command: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The words that run a command in the tree."""
        settings = [f"--setenv={name}={value}" for name, value in {**OVER_THERE, **(env or {})}.items()]
        return [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--as-pid2", "--pipe", "--private-network",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", f"--machine={self.name}",
            f"--directory={self.path}", *settings, "--", *command,
        ]  # fmt: skip

    def shell(self, script: str, *, check: bool = True, timeout: float = 300) -> Finished:
        """Run a script, which ends at the first command that fails."""
        return self.run("bash", "-euo", "pipefail", "-c", script, check=check, timeout=timeout)

    def apt(self, *words: str, check: bool = True, env: Mapping[str, str] | None = None) -> Finished:
        """`apt-get --yes WORDS`. Files of the host that are named are copied into the tree first."""
        words = tuple(self.take(Path(word)) if word.endswith(".deb") else word for word in words)
        return self.run("apt-get", "--yes", "--quiet", *words, check=check, env=env)

    def preseed(self, owner: str, **answers: str) -> None:
        """Answer a package's questions before they are asked, by the file that our documentation offers for it."""
        offered = (CHECKOUT / f"debian/preseed/{owner}.preseed").read_text().splitlines()
        lines = []
        for name, answer in answers.items():
            start = f"#{owner} {owner}/{name.replace('_', '-')} "
            (line,) = (line for line in offered if line.startswith(start))
            kind = line.removeprefix(start).split()[0]
            lines.append(f"{start[1:]}{kind} {answer}\n")
        self.run("debconf-set-selections", stdin="".join(lines))

    def take(self, file: Path) -> str:
        """Copy a file of the host into the tree; returns its name there."""
        name = f"/var/tmp/{file.name}"
        shutil.copyfile(file, self.path / name.lstrip("/"))
        return name

    def at(self, name: str) -> Path:
        """Where a path of the tree lies on the host. For files and directories: a link would lead out of the tree."""
        return self.path / name.lstrip("/")

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        self.at(name).parent.mkdir(parents=True, exist_ok=True)
        self.at(name).write_text(text)
        self.at(name).chmod(mode)

    def files(self) -> dict[str, str]:
        """What lies in the tree: path -> kind, mode, owner, size and contents, without what is `VOLATILE`."""
        found: dict[str, str] = {}
        for directory, names, files in os.walk(self.path):
            base = os.path.relpath(directory, self.path)
            names[:] = [name for name in names if os.path.normpath(f"{base}/{name}") not in VOLATILE]
            for name in (*names, *files):
                place = os.path.normpath(f"{base}/{name}")
                if place not in VOLATILE and "__pycache__" not in place:
                    found[place] = _describe(Path(directory, name))
        return found

    def unmount(self) -> None:
        """Leave nothing but `changes`."""
        subprocess.run(["umount", str(self.path)], check=True)

    def close(self) -> None:
        """Take the mount away, and what the test changed."""
        _remove(self.path.parent)


def finished(words: Sequence[str], process: subprocess.CompletedProcess[bytes], *, check: bool) -> Finished:
    """What a process left, as text; raises CommandFailed with all that was said."""
    errors = b"".join(line for line in process.stderr.splitlines(keepends=True) if NOISE not in line)
    done = Finished(process.returncode, process.stdout.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))
    if check and done.status:
        raise CommandFailed(f"status {done.status}: {shlex.join(words)[:500]}\n{done.output}")
    return done


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """What came, went or changed between two `Root.files`: path -> what it is now, or `gone`."""
    return {
        name: after.get(name, "gone")
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }  # fmt: skip


def _describe(path: Path) -> str:
    status = path.lstat()
    words = [stat.filemode(status.st_mode), f"{status.st_uid}:{status.st_gid}"]
    if stat.S_ISLNK(status.st_mode):
        words.append(str(path.readlink()))
    elif stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            words.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(words)


@contextlib.contextmanager
def fresh_root(system: str | Sequence[Path]) -> Iterator[Root]:
    """A clean system: a release of RELEASES, a name of LAYERS, or what `layered` returned. It is gone afterwards."""
    require_roots()
    lower = layers(system) if isinstance(system, str) else system
    root = Root(INSTANCES / f"{os.getpid()}-{next(_numbers)}", lower)
    try:
        yield root
    finally:
        root.close()


def layers(name: str) -> list[Path]:
    """The directories that make up a system, topmost first; they are made if they are not there."""
    if name in RELEASES:
        recipe = repr((RELEASES[name], BASE, ON_OFFER, PACMAN, TO_REPOSITORY))
        return [_made(name, recipe, lambda target: _make_release(RELEASES[name], target))]
    below, packages = LAYERS[name]
    return layered(name, layers(below), repr(packages), lambda root: root.apt("install", *packages))


def layered(name: str, under: Sequence[Path], recipe: str, prepare: Callable[[Root], object]) -> list[Path]:
    """A system that is made by `prepare` of another one, once for each `recipe`: for what many tests start from."""

    def make(target: Path) -> None:
        root = Root(INSTANCES / f"{os.getpid()}-{next(_numbers)}", under, in_memory=False)
        try:
            prepare(root)
            root.unmount()
            root.changes.rename(target)
        finally:
            root.close()

    return [_made(name, f"{under[0].name} {recipe}", make), *under]


def _made(name: str, recipe: str, make: Callable[[Path], None]) -> Path:
    """A directory below HOME that `make` fills once; its name changes with its recipe."""
    directory = HOME / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _reap()
        if not directory.exists():
            for old in (*HOME.glob(f"{name}-{'?' * 12}"), HOME / f"{name}.unfinished"):
                if old.exists() and str(old) not in Path("/proc/mounts").read_text():
                    shutil.rmtree(old)
            make(HOME / f"{name}.unfinished")
            (HOME / f"{name}.unfinished").rename(directory)
    return directory


def _make_release(suite: str, directory: Path) -> None:
    offered = " ".join((*ON_OFFER, *(PACMAN if suite == "bookworm" else ())))
    hooks = (
        f'chroot "$1" apt-get install --yes --download-only {offered}',
        f'mkdir "$1/srv/packages"; {TO_REPOSITORY}',
    )
    command = [
        "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--skip=cleanup/apt/lists",
        f"--include={','.join(BASE)}", *(f"--customize-hook={hook}" for hook in hooks),
        suite, str(directory),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"no Debian could be made (is there a network?): {done.stderr[-2000:]}")


def _reap() -> None:
    """Remove what tests that were killed left behind."""
    for directory in INSTANCES.glob("*-*"):
        if not Path(f"/proc/{directory.name.partition('-')[0]}").exists():
            _remove(directory)


def _remove(directory: Path) -> None:
    for mount in (directory / "tree", directory):
        subprocess.run(["umount", "--lazy", str(mount)], capture_output=True, check=False)
    if not os.path.ismount(directory / "tree"):
        shutil.rmtree(directory, ignore_errors=True)
