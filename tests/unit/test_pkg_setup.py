"""The program that makes the private environment of an installed package, with real wheels, offline."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from needs import require
from penguindome_tools.packaging import pkg_setup

PROGRAM = Path(pkg_setup.__file__)


def bundled_pip() -> Path:
    """The wheel of pip that Python carries."""
    spec = find_spec("ensurepip")
    require(spec and spec.origin, "this Python has no ensurepip (Debian: python3-venv)")
    assert spec is not None
    assert spec.origin is not None
    found = sorted(Path(spec.origin).parent.glob("_bundled/pip-*.whl"))
    require(found, "this Python's ensurepip has no wheel of pip")
    return found[0]


def make_wheel(directory: Path, name: str, version: str, source: str, tag: str = "py3-none-any") -> str:
    """A wheel with one module; returns its line of requirements."""
    wheel = directory / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/top_level.txt": f"{name}\n",
    }
    record = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def lay_out(home: Path) -> Path:
    wheels = home / "wheels"
    wheels.mkdir(parents=True)
    shutil.copy(bundled_pip(), wheels)
    (home / "requirements.txt").write_text(make_wheel(wheels, "penguin", "1", "NAME = 'first'\n"))
    return home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An installed package with a wheel of its own, and its requirements."""
    return lay_out(tmp_path / "role")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with its environment in use."""
    home = lay_out(tmp_path_factory.mktemp("made") / "role")
    done = setup(home, "venv")
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def made(template: Path, tmp_path: Path) -> Path:
    """A copy of that for the test to change."""
    return Path(shutil.copytree(template, tmp_path / "role", symlinks=True))


def setup(home: Path, verb: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, "-I", str(PROGRAM), "--home", str(home), verb]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def name_inside(home: Path) -> str:
    """What the module in the environment in use says."""
    command = [home / "venv/bin/python", "-I", "-c", "import penguin; print(penguin.NAME)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def environments(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("venv-*"))


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


def test_an_environment_is_made_of_the_wheels_compiled_and_readable_to_everybody(home: Path) -> None:
    before = os.umask(0o077)
    try:
        done = setup(home, "venv")
    finally:
        os.umask(before)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert name_inside(home) == "first"
    assert setup(home, "matches").returncode == 0
    module = next(home.glob("venv/lib/python*/site-packages/penguin.py"))
    compiled = list(module.parent.glob("__pycache__/penguin.*.pyc"))
    assert compiled
    assert [path for path in (module, module.parent, *compiled) if not path.stat().st_mode & 0o004] == []


def test_what_is_there_already_is_not_made_again(made: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in made.rglob("*")}
    assert setup(made, "venv").returncode == 0
    assert {path: path.lstat().st_mtime_ns for path in made.rglob("*")} == before


def test_other_wheels_make_another_environment_which_replaces_the_old_one(made: Path) -> None:
    old = environments(made)
    (made / "requirements.txt").write_text(make_wheel(made / "wheels", "penguin", "2", "NAME = 'second'\n"))
    assert setup(made, "venv").returncode == 0
    assert name_inside(made) == "second"
    assert len(environments(made)) == 1
    assert environments(made) != old


@pytest.mark.parametrize(
    ("source", "tampered", "words"),
    [
        ("NAME = 'second'\n", True, "DO NOT MATCH THE HASHES"),
        ("import no_such_module\n", False, "no_such_module"),
    ],
    ids=["a wheel with another hash", "a module that cannot be imported"],
)
def test_what_cannot_be_trusted_or_used_leaves_the_old_environment_and_one_line(
    made: Path, source: str, *, tampered: bool, words: str
) -> None:
    before = environments(made)
    line = make_wheel(made / "wheels", "penguin", "2", source)
    (made / "requirements.txt").write_text(line)
    if tampered:
        make_wheel(made / "wheels", "penguin", "2", "NAME = 'third'\n")
    done = setup(made, "venv")
    assert done.returncode == 1
    assert words.lower() in one_line(done.stderr).lower()
    assert "stays" in done.stderr
    assert name_inside(made) == "first"
    assert environments(made) == before


def test_a_python_that_the_package_has_no_wheels_for_is_named(made: Path) -> None:
    (made / "requirements.txt").write_text(make_wheel(made / "wheels", "penguin", "2", "", tag="cp37-cp37-linux"))
    done = setup(made, "venv")
    assert done.returncode == 1
    assert "serves Python 3.7 to 3.7" in one_line(done.stderr)
    assert f"has {sys.version_info.major}.{sys.version_info.minor}" in done.stderr
    assert name_inside(made) == "first"


def test_an_environment_whose_making_was_interrupted_is_made_anew(made: Path) -> None:
    (made / "venv/stamp").unlink()
    next(made.glob("venv/lib/python*/site-packages/penguin.py")).unlink()
    assert setup(made, "matches").returncode == 1
    assert setup(made, "venv").returncode == 0
    assert name_inside(made) == "first"


def test_an_environment_whose_python_is_gone_does_not_match_and_is_made_anew(made: Path) -> None:
    for path in made.glob("venv/bin/python*"):
        path.unlink()
        path.symlink_to("/nonexistent/python")
    assert setup(made, "matches").returncode == 1
    assert setup(made, "venv").returncode == 0
    assert name_inside(made) == "first"


def test_two_at_once_make_it_once(home: Path) -> None:
    command = [sys.executable, "-I", str(PROGRAM), "--home", str(home), "venv"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in both] == [("", 0)] * 2
    assert name_inside(home) == "first"
    assert len(environments(home)) == 1


def test_remove_leaves_what_the_package_installed(home: Path) -> None:
    before = sorted(home.rglob("*"))
    assert setup(home, "venv").returncode == 0
    assert setup(home, "remove").returncode == 0
    assert sorted(home.rglob("*")) == before
    assert setup(home, "matches").returncode == 1


def test_the_programs_of_a_user_and_his_settings_have_no_say(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "penguin.py").write_text("NAME = 'foreign'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PIP_INDEX_URL", "nowhere:")
    done = setup(home, "venv")
    assert done.returncode == 0, done.stderr
    assert name_inside(home) == "first"
    assert not (tmp_path / "elsewhere").exists()
