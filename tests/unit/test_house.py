"""The rules of the house: what may lie where, who may import what, what is locked."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from needs import require, require_program

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
SOURCES = ("src", "server", "tools", "plugins", "tests")
LOCKS = ("client", "server", "packaging", "development", "mongod")

TOP_LEVEL = {
    *("debian", "arch", "src", "plugins", "server", "tools", "tests", "Makefile", "README.md", "pyproject.toml"),
    *("LICENSE", "SECURITY.md", "CHANGELOG.md", ".ci", ".gitignore", ".editorconfig", ".git"),
}

# What stands for an outside world -> the only places below src/, server/ and plugins/ that may import it.
SEAMS = {
    "subprocess": {"src/penguindome/processes.py"},
    "requests": set(),
    "urllib3": {"src/penguindome/client/transport.py"},
    "pysequoia": {"src/penguindome/openpgp*"},
    "gnupg": {"src/penguindome/openpgp*"},
    "yaml": {"src/penguindome/yaml_files.py"},
    "logbook": {"src/penguindome/logging.py"},
    "logging": {"src/penguindome/logging.py"},
    "pymongo": {"server/penguindome_server/store/mongodb*"},
    "bson": {"server/penguindome_server/store/mongodb*"},
    "sqlite3": {"server/penguindome_server/store/sqlite*"},
}

# The modules of the server that speak HTTP; all others are the domain or what it stands on.
WEB = {
    "__main__.py",
    "answering.py",
    "api/*",
    "application.py",
    "connections.py",
    "gunicorn_runner.py",
    "web.py",
    "worker.py",
}
OF_THE_WEB = {
    *("flask", "gunicorn", "werkzeug"),
    *(f"penguindome_server.{name}" for name in ("api", "application", "gunicorn_runner", "web", "worker")),
}

MAKE_TARGETS = {
    *("help", "run", "test", "test-all", "test-pythons", "lint", "bench", "lock", "clean"),
    *("wheelhouse", "deb", "pacman", "test-packages", "test-system"),
}


def python_files(*directories: str) -> Iterator[Path]:
    for directory in directories:
        for path in sorted((CHECKOUT / directory).rglob("*")):
            if path.suffix == ".py" or (directory == "plugins" and path.is_file() and "." not in path.name):
                yield path


def imported_names(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def belongs_to(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def relative(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def locked(role: str) -> dict[str, set[str]]:
    """Name -> versions (several where they differ between Pythons) of a lock."""
    packages: dict[str, set[str]] = {}
    for name, number in re.findall(
        r"^([a-z0-9-]+)==(\S+)", (CHECKOUT / f"tools/locks/{role}.txt").read_text(), re.MULTILINE
    ):
        packages.setdefault(name, set()).add(number)
    return packages


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_top_level_holds_what_was_agreed_and_nothing_else() -> None:
    ignored = [line.strip("/") for line in (CHECKOUT / ".gitignore").read_text().split()]
    present = {path.name for path in CHECKOUT.iterdir() if not any(fnmatch(path.name, pattern) for pattern in ignored)}
    assert present <= TOP_LEVEL


def test_there_is_one_version() -> None:
    assert version("penguindome") == PROJECT["version"]
    rivals = [relative(path) for path in python_files("src", "server", "tools") if "__version__ =" in path.read_text()]
    assert rivals == []


@pytest.mark.parametrize("role", LOCKS)
def test_each_package_of_a_lock_has_hashes_and_no_line_names_a_host(role: str) -> None:
    text = (CHECKOUT / f"tools/locks/{role}.txt").read_text()
    entries = [
        entry for entry in re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines() if entry
    ]
    assert entries
    assert [entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []
    assert [entry for entry in entries if not re.match(r"[a-z0-9-]+==[0-9][^ ]* ", entry)] == []
    assert "://" not in text


def test_what_is_locked_is_what_the_project_asks_for() -> None:
    roles = {"client": PROJECT["dependencies"]}
    roles["server"] = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["server"]
    for role, wanted in roles.items():
        packages = locked(role)
        for requirement in map(Requirement, wanted):
            for number in packages[normalised(requirement.name)]:
                assert number in requirement.specifier


def test_client_and_server_run_the_versions_that_were_tested() -> None:
    tested = locked("development")
    for role in ("client", "server"):
        assert {name: numbers for name, numbers in locked(role).items() if not numbers <= tested.get(name, set())} == {}


def test_the_lock_of_the_client_holds_nothing_of_server_or_tools() -> None:
    client, server, development = (set(locked(role)) for role in ("client", "server", "development"))
    assert client < server < development
    of_the_server = {normalised(Requirement(text).name) for text in PROJECT["optional-dependencies"]["server"]}
    assert client.isdisjoint(of_the_server)


def test_all_that_a_client_can_import_needs_nothing_but_the_lock_of_the_client() -> None:
    program = (
        "import importlib, json, pkgutil, sys; before = set(sys.modules); import penguindome\n"
        "for module in pkgutil.walk_packages(penguindome.__path__, 'penguindome.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    distributions = packages_distributions()
    allowed = set(locked("client")) | {"penguindome"}
    foreign = {
        module: distributions[module]
        for module in json.loads(done.stdout)
        if module not in sys.stdlib_module_names
        and module in distributions
        and not {normalised(name) for name in distributions[module]} <= allowed
    }
    assert foreign == {}
    assert {"penguindome_server", "penguindome_tools"}.isdisjoint(json.loads(done.stdout))


def test_the_packages_import_each_other_in_one_direction_only() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--no-cache", "--config", "pyproject.toml"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("library", SEAMS)
def test_one_module_knows_each_outside_world(library: str) -> None:
    importers = {
        relative(path)
        for path in python_files("src", "server", "plugins")
        if library in {name.split(".")[0] for name in imported_names(path)}
    }
    assert {path for path in importers if not any(fnmatch(path, pattern) for pattern in SEAMS[library])} == set()


def test_the_domain_knows_nothing_of_the_web() -> None:
    root = CHECKOUT / "server/penguindome_server"
    importers = {
        relative(path): names
        for path in python_files("server/penguindome_server")
        if not any(fnmatch(path.relative_to(root).as_posix(), pattern) for pattern in WEB)
        and (names := {name for name in imported_names(path) if belongs_to(name, OF_THE_WEB)})
    }
    assert importers == {}


@pytest.mark.parametrize("package", ["store", "query"])
def test_store_and_queries_know_nothing_of_the_domain(package: str) -> None:
    own = f"penguindome_server.{package}"
    for path in python_files(f"server/penguindome_server/{package}"):
        names = {name for name in imported_names(path) if belongs_to(name, {"penguindome_server"})}
        assert {name for name in names if not belongs_to(name, {own})} <= {"penguindome_server"}, relative(path)


def test_a_plugin_imports_the_library_the_client_and_the_standard_library_only() -> None:
    for path in python_files("plugins"):
        foreign = {name.split(".")[0] for name in imported_names(path)} - sys.stdlib_module_names - {"penguindome"}
        assert foreign == set(), relative(path)


def test_every_ignored_complaint_carries_its_reason() -> None:
    ignore = re.compile(
        r"#\s*(?:noqa\b(?::\s*[A-Z]+[0-9]+(?:,\s*[A-Z]+[0-9]+)*)?"
        r"|type:\s*ignore(?:\[[a-z-]+(?:,\s*[a-z-]+)*\])?"
        r"|shellcheck disable=[A-Z0-9,]+"
        r"|pragma: no cover)(?P<reason>.*)"
    )
    without = []
    scripts = ("debian/*", "arch/*", "tools/**/*.sh", "tests/**/*.sh")
    files = [*python_files(*SOURCES), *(path for each in scripts for path in CHECKOUT.glob(each)), CHECKOUT / ".ci/run"]
    for path in files:
        if path.is_file():
            for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
                found = ignore.search(line)
                if found and not re.search(r"\w{3}", found["reason"]):
                    without.append(f"{relative(path)}:{number}: {line.strip()}")
    assert without == []


def test_tests_say_through_require_what_they_need_so_that_nothing_is_skipped_where_ci_is_set() -> None:
    skips = re.compile(r"mark\.(?:skip|xfail)|pytest\.(?:skip|xfail|importorskip)")
    own = {CHECKOUT / "tests/needs.py", CHECKOUT / "tests/unit/test_house.py"}
    found = [
        f"{relative(path)}: {line.strip()}"
        for path in python_files("tests")
        if path not in own
        for line in path.read_text().splitlines()
        if skips.search(line)
    ]
    assert found == []


def test_make_without_a_target_lists_every_target() -> None:
    make = require_program("make")
    environment = {"PATH": os.environ["PATH"]}  # a make that runs these tests hands on its own flags
    done = subprocess.run([make], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^make (\S+) +\S", done.stdout, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert listed == targets
    assert targets >= MAKE_TARGETS


def test_programs_of_the_house_are_executable_and_name_their_interpreter() -> None:
    programs = [CHECKOUT / ".ci/run", *(path for path in (CHECKOUT / "plugins").glob("*") if path.is_file())]
    wrong = [
        relative(path)
        for path in programs
        if path.suffix in {"", ".py"} and not (os.access(path, os.X_OK) and path.read_bytes().startswith(b"#!"))
    ]
    assert wrong == []


def test_checks_and_marks_of_types_are_part_of_what_is_installed() -> None:
    data = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package, where in (("penguindome", "src"), ("penguindome_server", "server"), ("penguindome_tools", "tools")):
        root = CHECKOUT / where / package
        files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        carried = [*data.get(package, []), "*.py", "*.pyc"]
        assert [name for name in files if not any(fnmatch(name, pattern) for pattern in carried)] == []


def test_what_a_machine_lacks_skips_a_test_there_and_fails_it_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no moon"):
        require(False, "no moon")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no moon"):
        require(False, "no moon")
