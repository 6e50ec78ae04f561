"""YAML that people write, with the line of every value."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from penguindome import yaml_files
from penguindome.errors import SettingsError


def value_of(text: str) -> Any:
    return yaml_files.parse(text, "x.yml").value


def test_every_value_knows_its_line() -> None:
    document = yaml_files.parse("a: 1\n\nb:\n  # why\n  c:\n    - x\n    - d: 2\n", "x.yml")
    assert document.value == {"a": 1, "b": {"c": ["x", {"d": 2}]}}
    assert [document.line(*route) for route in (("a",), ("b",), ("b", "c"), ("b", "c", 1, "d"))] == [1, 3, 5, 7]
    assert document.where("b", "c", "unknown") == "x.yml:5"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10:30", "10:30"),
        ("10:30:15.5", "10:30:15.5"),
        ("2026-12-25", "2026-12-25"),
        ("2026-11-23T22:30:00Z", datetime(2026, 11, 23, 22, 30, tzinfo=timezone.utc)),
        ("2026-11-23T22:30:00", "2026-11-23T22:30:00"),
        ("yes", True),
        ("off", False),
        ("0x10", 16),
        ("1_000", 1000),
        ("1.5", 1.5),
        ("~", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("=", "="),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("{}", {}),
        ("[]", []),
    ],
)
def test_values_are_what_an_administrator_means(text: str, value: Any) -> None:
    found = value_of(f"key: {text}")["key"]
    assert (type(found), found) == (type(value), value)


def test_keys_are_text() -> None:
    assert value_of("on: 1\n5: 2\n~: 3\n$gte: 4\n") == {"on": 1, "5": 2, "~": 3, "$gte": 4}


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "---\n...\n"])
def test_an_empty_text_has_no_value(text: str) -> None:
    assert value_of(text) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"x.yml:3: 'a' is given twice \(first on line 1\)"),
        ("a:\n  b: 1\n  b: 1\n", r"x.yml:3: 'b' is given twice"),
        ("a: 1\n\tb: 2\n", r"x.yml:2: a tab where YAML wants spaces"),
        ("a: 1\nb: [1, 2\n", r"x.yml:2: "),
        ("a: 1\n---\nb: 2\n", r"x.yml:2: "),
        ("a: !!python/object/apply:os.system [id]\n", r"x.yml:1: the tag .* is not allowed"),
        ("a: 1\nb: !thing 5\n", r"x.yml:2: the tag '!thing' is not allowed"),
        ("a: !!binary aGk=\n", r"x.yml:1: the tag .* is not allowed"),
        ("a: !!set {b, c}\n", r"x.yml:1: the tag .* is not allowed"),
        ("a: 1\n<<: {b: 2}\n", r"x.yml:2: merging"),
        ("? [a]\n: 1\n", r"x.yml:1: a key must be plain text"),
        ("a: .nan\n", r"x.yml:1: '.nan' is not a finite number"),
        ("a: -.inf\n", r"x.yml:1: '-.inf' is not a finite number"),
        ("a: !!int x\n", r"x.yml:1: 'x' is not of the kind int"),
        ("a: *nowhere\n", r"x.yml:1: "),
        ("a: 1\nb: \x01\n", r"x.yml:2: "),
        ("&a [*a]\n", r"x.yml:1: .*too deeply"),
        ("[" * 300 + "]" * 300, r"x.yml:1: .*too deeply"),
        ("[" * 100_000, r"x.yml:\d+: "),
        ("a: &a 1\n" + "{" * 50_000, r"x.yml:\d+: "),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        yaml_files.parse(text, "x.yml")


@pytest.mark.timeout(20)
def test_aliases_cannot_multiply_a_text() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(SettingsError, match="too many values"):
        yaml_files.parse("\n".join(lines), "x.yml")


def test_a_file_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text("a: [")
    with pytest.raises(SettingsError, match=rf"^{path}:1: "):
        yaml_files.load(path)


def test_a_file_has_a_limit_and_must_be_there_and_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    with pytest.raises(SettingsError, match="No such file"):
        yaml_files.load(path)
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(SettingsError, match=r"x.yml:2: not UTF-8"):
        yaml_files.load(path)
    path.write_bytes(b"#" * (yaml_files.MAXIMUM_SIZE + 1))
    with pytest.raises(SettingsError, match="larger than"):
        yaml_files.load(path)
    with pytest.raises(SettingsError, match=r"directory|regular"):
        yaml_files.load(tmp_path)


def test_the_top_level_of_a_mapping_file_is_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text("")
    assert yaml_files.load_mapping(path).value == {}
    for text in ("- a\n", "just text\n", "5\n"):
        path.write_text(text)
        with pytest.raises(SettingsError, match=r"x.yml:1: expected"):
            yaml_files.load_mapping(path)


def test_what_is_dumped_is_read_as_the_same() -> None:
    value = {
        "a.b": "x: y",
        "t": "10:30",
        "d": "2026-12-25",
        "n": None,
        "y": "yes",
        "l": [1, "1", True],
        "m": {"k": "é\n"},
    }
    assert value_of(yaml_files.dump(value)) == value
