"""Plugins as modules, and the outputs of real programs that they are tested with.

`data/<plugin>/<machine>-<what>.<program>` is one output; `<machine>-<what>.origin` beside it tells the commands and the
machine, and says so where it is a transcription. `data/README.md` tells how they were made.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
DATA = Path(__file__).parent / "data"


def load(name: str) -> ModuleType:
    """The plugin as a module: a file of its own, which belongs to no package."""
    module_name = f"plugin_{name}"
    if module_name not in sys.modules:
        specification = importlib.util.spec_from_file_location(module_name, ROOT / "plugins" / f"{name}.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[module_name] = module
        specification.loader.exec_module(module)
    return sys.modules[module_name]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The plugin that the test module `test_<name>.py` is about."""
    return request.module.__name__.rpartition("test_")[2]


@pytest.fixture
def plugin(name: str) -> ModuleType:
    """That plugin, as a module."""
    return load(name)


@pytest.fixture
def data(name: str) -> Path:
    """The directory of that plugin's data."""
    return DATA / name


@pytest.fixture
def read(data: Path) -> Callable[[str], str]:
    """The text of a data file, empty if there is none: programs that printed nothing have no file."""

    def read_file(file_name: str) -> str:
        path = data / file_name
        return path.read_text() if path.exists() else ""

    return read_file


@pytest.fixture
def machines(data: Path) -> list[str]:
    """What stands before the dot in the names of that plugin's data files, once each."""
    return sorted(path.name.removesuffix(".origin") for path in data.glob("*.origin"))
