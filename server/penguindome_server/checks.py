"""Checks: problems that a query over a client's document finds, written as YAML.

A file of a checks directory (`*.yml`) maps the names of checks to what they are:

    firewall-inactive:
      description: what is wrong, in one line
      query: {plugins.firewall.active: false}     # MongoDB's syntax, over the client's document
      older_than: {plugins.os_updates.lists_updated_at: 14d}   # optional: and this moment is so long past
      severity: low, medium, high or critical     # default medium
      grace_period: 2d                            # business time before anybody is told; default none
      alert_frequency: 1d                         # how often to tell again; default 1d
      remedy: what the user of the laptop should do
      enabled: true

A later directory overrides an earlier one by name: the fields that it gives replace the earlier ones, and
`enabled: false` disables a check. The age in `older_than` is measured at the time of collection (`collected_at`), so
that a document always gets the same answer; a missing or other value is not old.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, get_args

from penguindome import yaml_files
from penguindome.errors import SettingsError
from penguindome.times import parse_duration
from penguindome_server.issue_kinds import KINDS
from penguindome_server.query import QueryError, compile_query, paths

Severity = Literal["low", "medium", "high", "critical"]
SEVERITIES: Final[tuple[str, ...]] = get_args(Severity)
_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST_NAME: Final = 60
_MOMENT: Final = "collected_at"

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One check; `source` is FILE:LINE of its (last) definition. `matches` says whether a document has the problem."""

    name: str
    description: str
    query: Mapping[str, Any]
    grace_period: timedelta
    alert_frequency: timedelta
    severity: Severity
    remedy: str
    enabled: bool
    source: str
    older_than: Mapping[str, timedelta] = field(default_factory=dict)
    matches: Callable[[Document], bool] = field(default=lambda _: False, repr=False, compare=False)


class CheckSet:
    """Checks by name. Iteration and `failing` are about enabled ones; `all` and `checks[name]` know the others too."""

    def __init__(self, checks: Iterable[Check] = ()) -> None:
        self.all: tuple[Check, ...] = tuple(sorted(checks, key=lambda check: check.name))
        self._by_name = {check.name: check for check in self.all}
        self._enabled = tuple(check for check in self.all if check.enabled)
        self._predicates = tuple((check.name, check.matches) for check in self._enabled)

    def failing(self, document: Document) -> list[str]:
        """The names, sorted, of the enabled checks whose problem the document has."""
        return [name for name, matches in self._predicates if matches(document)]

    def __getitem__(self, name: str) -> Check:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Check]:
        return iter(self._enabled)

    def __len__(self) -> int:
        return len(self._enabled)


def load_checks(*directories: Path) -> CheckSet:
    """The checks of all directories, later ones laid over earlier ones; a directory that is not there holds none.

    Raises SettingsError with file and line of the first problem, and how many more there are.
    """
    checks, problems = read_checks(*directories)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SettingsError(problems[0] + more, hint="penguindome checks lint shows all problems")
    return checks


def read_checks(*directories: Path) -> tuple[CheckSet, list[str]]:
    """As `load_checks`, but with every problem as text, `FILE:LINE: ...`, and the checks that have none."""
    reader = _Reader()
    for directory in directories:
        reader.directory(directory)
    return CheckSet(reader.finish()), reader.problems


@dataclass
class _Draft:
    """The fields of a check as the directories so far give them, already converted."""

    name: str
    source: str
    directory: Path
    fields: dict[str, Any] = field(default_factory=dict)
    broken: bool = False


class _Misfit(Exception):
    """A value that does not fit; `route` leads from the check to it."""

    def __init__(self, reason: str, *route: str | int) -> None:
        super().__init__(reason)
        self.route = route


class _Reader:
    """Reads directories in their order, and collects drafts and problems."""

    def __init__(self) -> None:
        self.drafts: dict[str, _Draft] = {}
        self.problems: list[str] = []

    def directory(self, directory: Path) -> None:
        try:
            files = sorted(path for path in directory.iterdir() if path.suffix == ".yml")
        except FileNotFoundError:
            return
        except OSError as error:
            self.problems.append(f"{directory}: {error.strerror}")
            return
        for path in files:
            try:
                document = yaml_files.load_mapping(path)
            except SettingsError as error:
                self.problems.append(error.message)
                continue
            for name, definition in document.value.items():
                self.definition(directory, document, name, definition)

    def definition(self, directory: Path, document: yaml_files.Document, name: str, definition: object) -> None:
        where = document.where(name)
        if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
            self.problems.append(f"{where}: {name!r} is no name of a check: lower-case words joined by hyphens")
            return
        if name in KINDS:
            self.problems.append(
                f"{where}: {name} is an issue that the server opens itself; give the check another name"
            )
            return
        draft = self.drafts.get(name)
        if draft is not None and draft.directory == directory:
            self.problems.append(f"{where}: {name} is defined twice, here and at {draft.source}")
            return
        draft = self.drafts.setdefault(name, _Draft(name, where, directory))
        draft.source, draft.directory = where, directory
        if not isinstance(definition, Mapping):
            self.complain(draft, where, "expected fields such as description and query")
            return
        for key, value in definition.items():
            self.one_field(draft, document, key, value)

    def one_field(self, draft: _Draft, document: yaml_files.Document, key: str, value: object) -> None:
        if key not in _FIELDS:
            close = difflib.get_close_matches(key, _FIELDS, n=1)
            suggestion = f"did you mean {close[0]}?" if close else f"there are {', '.join(_FIELDS)}"
            self.complain(draft, document.where(draft.name, key), f"unknown key {key}; {suggestion}")
            return
        try:
            draft.fields[key] = _FIELDS[key](value)
        except _Misfit as error:
            self.complain(draft, document.where(draft.name, key, *error.route), f"{key}: {error}")

    def complain(self, draft: _Draft, where: str, reason: str) -> None:
        draft.broken = True
        self.problems.append(f"{where}: {draft.name}: {reason}")

    def finish(self) -> list[Check]:
        """The checks whose drafts are sound and complete."""
        names = [draft.name for draft in self.drafts.values() if "query" in draft.fields]
        for draft in self.drafts.values():
            missing = [key for key in ("description", "query") if key not in draft.fields]
            if missing and not draft.broken:
                close = difflib.get_close_matches(draft.name, names, n=1)
                suggestion = f"; did you mean {close[0]}?" if close else ""
                self.complain(
                    draft, draft.source, f"{' and '.join(missing)} missing, and there is no such check{suggestion}"
                )
        return [_check(draft) for draft in self.drafts.values() if not draft.broken]


def _check(draft: _Draft) -> Check:
    fields = draft.fields
    query, matches = fields["query"]
    older_than: dict[str, timedelta] = fields.get("older_than", {})
    return Check(
        name=draft.name,
        description=fields["description"],
        query=query,
        grace_period=fields.get("grace_period", timedelta(0)),
        alert_frequency=fields.get("alert_frequency", timedelta(days=1)),
        severity=fields.get("severity", "medium"),
        remedy=fields.get("remedy", ""),
        enabled=fields.get("enabled", True),
        source=draft.source,
        older_than=older_than,
        matches=_with_ages(matches, older_than) if older_than else matches,
    )


def _with_ages(matches: Callable[[Document], bool], older_than: Mapping[str, timedelta]) -> Callable[[Document], bool]:
    ages = [(paths.parse(path, ()), age) for path, age in older_than.items()]

    def test(document: Document) -> bool:
        if not matches(document):
            return False
        moment = document.get(_MOMENT)
        return isinstance(moment, datetime) and all(_is_older(document, path, moment - age) for path, age in ages)

    return test


def _is_older(document: Document, path: paths.Path, limit: datetime) -> bool:
    return paths.reach(path, lambda value: isinstance(value, datetime) and value < limit, spread=True)(document)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Misfit("expected text")
    return value.strip()


def _line(value: object) -> str:
    text = _text(value)
    if "\n" in text:
        raise _Misfit("expected text on one line")
    return text


def _query(value: object) -> tuple[Mapping[str, Any], Callable[[Document], bool]]:
    if not isinstance(value, Mapping) or not value:
        raise _Misfit("expected a query: fields and what they must be")
    try:
        return value, compile_query(value)
    except QueryError as error:
        hint = f"; {error.hint}" if error.hint else ""
        raise _Misfit(f"{error.message}{hint}", *error.location) from error


def _duration(value: object) -> timedelta:
    try:
        return parse_duration(value)  # type: ignore[arg-type]  # it says what is wrong with any other type
    except ValueError as error:
        raise _Misfit(str(error)) from error


def _ages(value: object) -> dict[str, timedelta]:
    if not isinstance(value, Mapping) or not value:
        raise _Misfit("expected paths and durations: {plugins.os_updates.lists_updated_at: 14d}")
    found = {}
    for path, age in value.items():
        try:
            paths.parse(path, ())
        except QueryError as error:
            raise _Misfit(error.reason, path) from error
        try:
            found[path] = _duration(age)
        except _Misfit as error:
            raise _Misfit(f"{path}: {error}", path) from error
    return found


def _severity(value: object) -> str:
    if value not in SEVERITIES:
        raise _Misfit(f"{value!r} is none of {', '.join(SEVERITIES)}")
    return str(value)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Misfit("expected true or false")
    return value


_FIELDS: Final[dict[str, Callable[[object], Any]]] = {
    "description": _line,
    "query": _query,
    "older_than": _ages,
    "severity": _severity,
    "grace_period": _duration,
    "alert_frequency": _duration,
    "remedy": _text,
    "enabled": _switch,
}
