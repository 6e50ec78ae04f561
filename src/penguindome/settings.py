"""Settings: declared once with type, default and description; read from YAML; every value knows where it came from.

Built-in defaults < fragments (`*.yml` of a directory, in the order of their names) < the main file. Names are dotted
(`database.uri`), and a file may nest them or write them with dots, as it likes. In a file, an empty value (`null`)
means the built-in default. A wrong type or value is a SettingsError that begins with `FILE:LINE: name:`; an unknown
name is a warning, so that an older program can read a newer file. Values of secret settings never appear in a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from penguindome.errors import SettingsError
from penguindome.files import write_atomically
from penguindome.times import format_duration, parse_duration

_KIND_NAMES: Mapping[Any, str] = {
    str: "str",
    int: "int",
    bool: "bool",
    float: "float",
    list: "list",
    dict: "map",
    timedelta: "duration",
    Path: "path",
}
_EXPECTED = {
    "str": "text",
    "int": "a whole number",
    "bool": "true or false",
    "float": "a number",
    "duration": "a duration such as 90s, 15m, 3h, 2d or 1w",
    "list": "a list",
    "map": "a mapping of names to values",
    "path": "an absolute path",
}


@dataclass(frozen=True)
class Setting:
    """One setting.

    `kind` is str, int, bool, float, or one of "duration" (a timedelta), "list" (of plain values), "map", "path" (a
    Path, absolute). `minimum` and `maximum` are in the kind's own terms (timedelta for durations). `check` gets the
    converted value and raises ValueError, or returns a text, when it does not fit. `default` is the converted value;
    None means: not set.
    """

    name: str
    kind: type | str = str
    default: Any = None
    description: str = ""
    choices: Sequence[Any] = ()
    minimum: Any = None
    maximum: Any = None
    check: Callable[[Any], Any] | None = None
    secret: bool = False

    @property
    def kind_name(self) -> str:
        """The kind as a word: str, int, bool, float, duration, list, map, path."""
        return self.kind if isinstance(self.kind, str) else _KIND_NAMES[self.kind]

    def convert(self, value: Any) -> Any:
        """The value of a file as this setting's own type. Raises ValueError with a text for the person who wrote it."""
        converted = self._convert(value)
        for item in converted if isinstance(converted, list) else [converted]:
            if self.choices and item not in self.choices:
                raise ValueError(f"{self._show(item)} is none of {', '.join(map(str, self.choices))}")
        if self.minimum is not None and converted < self.minimum:
            raise ValueError(f"{self._show(value)} is less than {_plain(self.minimum)}")
        if self.maximum is not None and converted > self.maximum:
            raise ValueError(f"{self._show(value)} is more than {_plain(self.maximum)}")
        if self.check is not None:
            self._run_check(converted)
        return converted

    def _run_check(self, converted: Any) -> None:
        try:
            complaint = self.check(converted) if self.check else None
        except ValueError as error:
            # The text of a check, or of the library behind it, often repeats the value.
            raise ValueError("does not fit" if self.secret else str(error)) from (None if self.secret else error)
        if isinstance(complaint, str) and complaint:
            raise ValueError("does not fit" if self.secret else complaint)

    def _convert(self, value: Any) -> Any:
        kind = self.kind_name
        if kind == "str" and isinstance(value, (int, float)):
            raise ValueError(f"expected text: put {self._show(value)} into quotes")
        if kind == "duration" and isinstance(value, (str, int)) and not isinstance(value, bool):
            return parse_duration(value)
        if kind == "path" and isinstance(value, str) and value.startswith("/") and "\0" not in value:
            return Path(value)
        if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind == "list" and isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
            return value
        types = {"str": str, "bool": bool, "int": int, "float": float, "map": dict}
        if kind in types and isinstance(value, types[kind]) and not (kind == "int" and isinstance(value, bool)):
            return value
        raise ValueError(f"expected {_EXPECTED[kind]}, found {self._show(value)}")

    def _show(self, value: Any) -> str:
        if self.secret:
            return "the value given"
        if isinstance(value, (dict, list)):
            return "a mapping" if isinstance(value, dict) else "a list"
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."


class Schema:
    """The settings that one program knows. Names must not repeat, nor one be the section of another."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        self.settings: dict[str, Setting] = {setting.name: setting for setting in settings}
        if len(self.settings) != len(settings):
            raise ValueError("a setting is declared twice")
        self.sections = {
            ".".join(parts[:count])
            for parts in (name.split(".") for name in self.settings)
            for count in range(1, len(parts))
        }
        if self.sections & set(self.settings):
            raise ValueError(f"both setting and section: {sorted(self.sections & set(self.settings))}")

    def __iter__(self) -> Iterator[Setting]:
        return iter(self.settings.values())

    def __getitem__(self, name: str) -> Setting:
        return self.settings[name]

    def __contains__(self, name: object) -> bool:
        return name in self.settings


@dataclass(frozen=True)
class Origin:
    """Where a value came from: a line of a file, or (file None) the built-in default."""

    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        return "default" if self.file is None else f"{self.file}:{self.line}"


class Settings:
    """The settings of a program: `settings["database.uri"]`. A name that the schema has not is a KeyError."""

    def __init__(
        self,
        schema: Schema,
        values: Mapping[str, Any] | None = None,
        origins: Mapping[str, Origin] | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        self.schema = schema
        self.warnings: tuple[str, ...] = tuple(warnings)
        self._values = {setting.name: setting.default for setting in schema}
        self._values.update(values or {})
        self._origins = dict(origins or {})

    @classmethod
    def of(cls, schema: Schema, values: Mapping[str, Any] | None = None) -> Settings:
        """Settings made in a program: defaults, with `values` (written as in a file, names dotted) over them.

        Raises SettingsError for a name that the schema has not or a value that does not fit.
        """
        converted = {}
        for name, value in (values or {}).items():
            if name not in schema:
                raise SettingsError(f"unknown setting {name!r}")
            converted[name] = _converted(schema[name], value, "")
        return cls(schema, converted)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={self.shown(name)!r}" for name in self._values if name in self._origins)
        return f"Settings({given})"

    def section(self, name: str) -> dict[str, Any]:
        """All settings below `name`, by the rest of their names: `section("logging")["syslog.host"]`."""
        prefix = name + "."
        return {key[len(prefix) :]: value for key, value in self._values.items() if key.startswith(prefix)}

    def origin(self, name: str) -> Origin:
        """Where the value in force came from."""
        if name not in self._values:
            raise KeyError(name)
        return self._origins.get(name, Origin())

    def shown(self, name: str) -> Any:
        """The value as a file would have it (durations and paths as text), secrets as `********`: for people to see."""
        value = self[name]
        return "********" if self.schema[name].secret and value not in (None, "", [], {}) else _plain(value)


def load(schema: Schema, main: Path, *fragments: Path) -> Settings:
    """Read the settings of a program: the fragments of each directory, a later one over those before it, then the main
    file. Files that are not there count as empty. Raises SettingsError with file and line.
    """
    reading = _Reading(schema)
    for path in [*(path for directory in fragments for path in _fragments(directory)), Path(main)]:
        reading.add(path)
    return Settings(schema, reading.values, reading.origins, reading.warnings)


def write_fragment(
    path: Path, values: Mapping[str, Any], *, mode: int = 0o640, owner: tuple[int, int] | None = None
) -> None:
    """Write a fragment: `values` by dotted name, sorted, under a comment that says whose file it is. Atomic.

    Raises OSError, or TypeError for a value that YAML has not.
    """
    from penguindome.yaml_files import dump

    lines = ["# Written by PenguinDome; changes made here by hand are overwritten. Your own settings belong into the\n"]
    lines.append("# main file beside this directory, which has the last word.\n")
    lines += [dump({name: _plain(values[name])}) for name in sorted(values)]
    write_atomically(path, "".join(lines), mode=mode, owner=owner)


def read_fragment(path: Path) -> dict[str, Any]:
    """What a fragment holds, by dotted name, as written; {} when there is none. For changing and writing it again.

    Mappings are taken for sections. Raises SettingsError.
    """
    from penguindome.yaml_files import load_mapping

    if not Path(path).exists():
        return {}
    flat: dict[str, Any] = {}
    pending = list(load_mapping(path).value.items())
    while pending:
        name, value = pending.pop(0)
        if isinstance(value, dict):
            pending[:0] = [(f"{name}.{key}", child) for key, child in value.items()]
        else:
            flat[name] = value
    return flat


def sample(schema: Schema) -> str:
    """A settings file with every setting commented out at its default, under its description."""
    from textwrap import wrap

    from penguindome.yaml_files import dump

    blocks = []
    for setting in schema:
        note = f"One of: {', '.join(map(str, setting.choices))}." if setting.choices else ""
        lines = wrap(f"{setting.description} {note}".strip(), 116, break_long_words=False, break_on_hyphens=False)
        assignment = dump({setting.name: _plain(setting.default)}).replace(": null\n", ":\n")
        blocks.append(
            "".join(f"# {line}\n" for line in lines) + "".join(f"#{line}\n" for line in assignment.splitlines())
        )
    return "\n".join(blocks)


@dataclass
class _Reading:
    """The values gathered so far, file after file."""

    schema: Schema
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def add(self, path: Path) -> None:
        """Lay one file over what is there. Raises SettingsError."""
        from penguindome.yaml_files import load_mapping

        if not path.exists():
            return
        document = load_mapping(path)
        given: dict[str, Origin] = {}
        pending: list[tuple[tuple[str, ...], Any]] = [((key,), value) for key, value in document.value.items()]
        while pending:
            route, value = pending.pop(0)
            name = ".".join(route)
            origin = Origin(path, document.line(*route))
            if name in self.schema:
                if name in given:
                    raise SettingsError(f"{origin}: {name}: given twice (first on line {given[name].line})")
                given[name] = origin
                self.set(name, value, origin)
            elif name in self.schema.sections:
                if value is not None and not isinstance(value, dict):
                    raise SettingsError(f"{origin}: {name}: a section, which needs settings below it")
                pending[:0] = [((*route, key), child) for key, child in (value or {}).items()]
            else:
                self.warnings.append(f"{origin}: unknown setting {name!r}{self.guess(name)}")

    def set(self, name: str, value: Any, origin: Origin) -> None:
        setting = self.schema[name]
        self.values[name] = setting.default if value is None else _converted(setting, value, f"{origin}: ")
        self.origins[name] = origin

    def guess(self, name: str) -> str:
        from difflib import get_close_matches

        known = [*self.schema.settings, *self.schema.sections]
        close = get_close_matches(name, known, 1, 0.7)
        return f" (did you mean {close[0]!r}?)" if close else ""


def _fragments(directory: Path) -> list[Path]:
    try:
        names = sorted(path for path in Path(directory).iterdir() if path.suffix == ".yml" and path.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SettingsError(f"{directory}: {error.strerror}") from error
    return names


def _converted(setting: Setting, value: Any, where: str) -> Any:
    try:
        return setting.convert(value)
    except ValueError as error:
        raise SettingsError(f"{where}{setting.name}: {error}") from (None if setting.secret else error)


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
