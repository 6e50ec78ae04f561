"""What `make deb` builds: the same each time, complete, and without a complaint of lintian."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import Packages, debian_packages, pacman_packages
from needs import require_program
from penguindome_tools.development.pythons import find
from penguindome_tools.packaging.wheelhouse import ROLES

pytestmark = pytest.mark.timeout(900)

CHECKOUT = Path(__file__).resolve().parents[2]
CARRIED = ("client", "server")


@pytest.fixture(scope="module")
def built() -> Packages:
    return debian_packages()


@pytest.fixture(scope="module")
def unpacked(built: Packages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Role -> what its package lays onto a machine."""
    directory = tmp_path_factory.mktemp("unpacked")
    trees = {role: directory / role for role in CARRIED}
    for role, tree in trees.items():
        subprocess.run(["dpkg-deb", "--extract", getattr(built, role), tree], check=True)
    yield trees
    shutil.rmtree(directory)


def home(tree: Path, role: str) -> Path:
    return tree / "usr/lib/penguindome" / role


def modules(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_second_build_elsewhere_without_a_network_gives_the_same_bytes(built: Packages, tmp_path: Path) -> None:
    for name in ("elsewhere", "home", "output"):
        (tmp_path / name).mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "LANG": "de_DE.UTF-8",
        "TZ": "Pacific/Auckland",
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "elsewhere"),
    }
    build = [sys.executable, "-m", "penguindome_tools.packaging.deb", "--output", str(tmp_path / "output")]
    build += ["--cache", str(tmp_path / "cache")]
    isolated = ["unshare", "--map-current-user", "--net"] if os.geteuid() else ["unshare", "--net"]
    before = os.umask(0o077)
    try:
        done = subprocess.run(
            [*isolated, *build], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stdout + done.stderr
    for package in (built.client, built.server):
        assert digest(tmp_path / "output" / package.name) == digest(package), package.name


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_lintian_finds_no_error_and_nothing_to_warn_of(built: Packages) -> None:
    command = [require_program("lintian"), "--allow-root", "--fail-on", "error,warning", built.client, built.server]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_each_override_of_lintian_carries_its_reason() -> None:
    for file in (CHECKOUT / "debian").glob("*.lintian-overrides"):
        lines = file.read_text().splitlines()
        bare = [line for before, line in zip(["", *lines], lines, strict=False) if line[:1] != "#" != before[:1]]
        assert bare == [], file.name


@pytest.mark.parametrize("role", CARRIED)
def test_requirements_name_each_wheel_that_is_carried_and_no_other(unpacked: dict[str, Path], role: str) -> None:
    carried = home(unpacked[role], role)
    named = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", (carried / "requirements.txt").read_text()))
    held = {digest(path): path.name for path in (carried / "wheels").iterdir()}
    assert set(held) >= named
    (beside,) = [name for sha256, name in held.items() if sha256 not in named]
    assert beside.startswith("pip-")


@pytest.mark.parametrize("role", CARRIED)
def test_each_library_has_a_wheel_for_each_supported_python(unpacked: dict[str, Path], role: str) -> None:
    tags: dict[str, set[str]] = {}
    for path in (home(unpacked[role], role) / "wheels").iterdir():
        project, _, python, abi, _ = path.name.removesuffix(".whl").split("-")
        tags.setdefault(project, set()).add("any" if abi in ("none", "abi3") else python)
    for project, found in tags.items():
        assert found in ({"any"}, {f"cp3{minor}" for minor in ROLES[role]}), project


def test_the_wheel_of_the_client_holds_nothing_of_the_server(unpacked: dict[str, Path]) -> None:
    (wheel,) = home(unpacked["client"], "client").glob("wheels/penguindome-*.whl")
    assert {name.partition("/")[0] for name in modules(wheel)} == {"penguindome"}
    assert "penguindome/client/cli.py" in modules(wheel)


def test_the_wheel_of_the_server_holds_what_administrators_need_and_nothing_of_developers(
    unpacked: dict[str, Path],
) -> None:
    (wheel,) = home(unpacked["server"], "server").glob("wheels/penguindome-*.whl")
    names = modules(wheel)
    sources = (path.relative_to(CHECKOUT / "server") for path in (CHECKOUT / "server").rglob("checks.d/*.yml"))
    assert {str(path) for path in sources} <= names
    tools = {name for name in names if name.startswith("penguindome_tools/")}
    of_developers = r"penguindome_tools/(bench|development|fleet|packaging|demonstration|scratch_site)"
    assert [name for name in tools if re.match(of_developers, name)] == []
    imported = {module for name in names if name.endswith(".py") for module in imports(wheel, name)}
    own = {re.sub(r"(/__init__)?\.py$", "", name).replace("/", ".") for name in names}
    missing = {module for module in imported if module.startswith("penguindome") and module not in own}
    assert {module for module in missing if module.rpartition(".")[0] not in own} == set()


def imports(wheel: Path, name: str) -> Iterator[str]:
    """Dotted names of the modules that a file in a wheel imports, and of what it takes out of them."""
    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_client_and_server_carry_the_same_plugins_all_of_them_executable(unpacked: dict[str, Path]) -> None:
    trees = (unpacked["client"] / "usr/lib/penguindome/client", unpacked["server"] / "usr/share/penguindome/client")
    first, second = ({path.name: digest(path) for path in (tree / "plugins").iterdir()} for tree in trees)
    assert first == second == {path.name: digest(path) for path in (CHECKOUT / "plugins").glob("*.py")}
    modes = {path.stat().st_mode & 0o777 for tree in trees for path in (tree / "plugins").iterdir()}
    assert modes == {0o755}
    assert (trees[0] / "package-kind").read_text() == "deb\n"


def test_the_server_carries_the_packages_of_the_client_as_they_are_built(
    built: Packages, unpacked: dict[str, Path]
) -> None:
    carried = {path.name: digest(path) for path in (unpacked["server"] / "usr/share/penguindome/packages").iterdir()}
    clients = (built.client, pacman_packages().client)
    assert carried == {path.name: digest(path) for path in clients}


@pytest.mark.parametrize("role", CARRIED)
def test_the_sums_of_a_package_are_those_of_its_files(built: Packages, unpacked: dict[str, Path], role: str) -> None:
    control = ["dpkg-deb", "--info", getattr(built, role), "md5sums"]
    sums = subprocess.run(control, capture_output=True, check=True).stdout
    check = ["md5sum", "--check", "--quiet", "--strict", "-"]
    subprocess.run(check, cwd=unpacked[role], input=sums, check=True)


@pytest.mark.parametrize("role", CARRIED)
def test_each_manual_page_is_free_of_warnings_and_says_what_its_command_does(
    unpacked: dict[str, Path], role: str
) -> None:
    pages = sorted((unpacked[role] / "usr/share/man/man1").iterdir())
    assert pages
    man = [require_program("man"), "--warnings", "--local-file", "--encoding=UTF-8", "-Tutf8", "--ditroff"]
    for page in pages:
        shown = subprocess.run([*man, page], capture_output=True, text=True, check=True)
        assert shown.stderr == "", page.name
        told = subprocess.run([require_program("lexgrog"), page], capture_output=True, text=True, check=True)
        assert re.search(r' - \S.*"$', told.stdout.strip()), page.name


def test_the_words_of_the_client_complete_in_bash(unpacked: dict[str, Path]) -> None:
    file = unpacked["client"] / "usr/share/bash-completion/completions/penguindome-client"
    script = f". {file}; COMP_WORDS=(penguindome-client st); COMP_CWORD=1; "
    script += (
        "$(complete -p penguindome-client | sed 's/.*-F \\([^ ]*\\).*/\\1/') penguindome-client st penguindome-client"
    )
    done = subprocess.run(
        ["bash", "-c", f"{script}; echo ${{COMPREPLY[*]}}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["status"]


@pytest.mark.long
@pytest.mark.parametrize("role", CARRIED)
def test_each_supported_python_of_this_machine_makes_the_environment(
    unpacked: dict[str, Path], tmp_path: Path, role: str
) -> None:
    pythons = [found[0] for minor in ROLES[role] if (found := find(f"3.{minor}"))]
    assert pythons
    module = {"client": "penguindome.client", "server": "penguindome_tools.cli"}[role]
    for python in pythons:
        place = tmp_path / python.name
        place.mkdir()
        for name in ("wheels", "requirements.txt"):
            (place / name).symlink_to(home(unpacked[role], role) / name)
        setup = [python, "-I", home(unpacked[role], role) / "pkg-setup", "--home", place, "venv"]
        done = subprocess.run(setup, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        command = [place / "venv/bin/python", "-I", "-m", module, "--version"]
        assert "penguindome" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
        shutil.rmtree(place)
