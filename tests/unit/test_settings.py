"""Settings: types, files, origins, secrets."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penguindome import settings, yaml_files
from penguindome.errors import SettingsError
from penguindome.settings import Schema, Setting, Settings


def even(number: int) -> None:
    """Refuse odd numbers."""
    if number % 2:
        raise ValueError(f"{number} is odd")


SCHEMA = Schema(
    [
        Setting("server.url", str, None, "Where clients reach the server."),
        Setting("server.port", int, 8443, "The port.", minimum=1, maximum=65535),
        Setting("debug", bool, default=False),
        Setting("ratio", float, 0.5, minimum=0),
        Setting("interval", "duration", timedelta(minutes=15), minimum=timedelta(minutes=1)),
        Setting("networks", "list", []),
        Setting("weekdays", "list", ["mon"], choices=("mon", "tue")),
        Setting("people", "map", {}),
        Setting("place", "path", Path("/var/place")),
        Setting("level", str, "info", choices=("debug", "info")),
        Setting("workers", int, 2, check=even),
        Setting("password", str, "", "The password.", secret=True),
        Setting("pin", int, None, minimum=1000, check=even, secret=True),
    ]
)


class Files:
    """A main file and its fragments."""

    def __init__(self, directory: Path) -> None:
        self.main = directory / "server.yml"
        self.fragments = directory / "server.d"
        self.fragments.mkdir()

    def load(self, main: str = "", **fragments: str) -> Settings:
        self.main.write_text(main)
        for name, text in fragments.items():
            (self.fragments / f"{name.replace('_', '-')}.yml").write_text(text)
        return settings.load(SCHEMA, self.main, self.fragments)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """An empty settings directory."""
    return Files(tmp_path)


def test_without_files_there_are_the_defaults(tmp_path: Path) -> None:
    loaded = settings.load(SCHEMA, tmp_path / "none.yml", tmp_path / "none.d")
    assert (loaded["server.port"], loaded["server.url"], str(loaded.origin("server.port"))) == (8443, None, "default")


@pytest.mark.parametrize("text", ["", "# all of it commented out\n#debug: true\n", "server:\n"])
def test_a_file_without_values_changes_nothing(files: Files, text: str) -> None:
    assert files.load(text)["server.port"] == 8443
    assert files.load(text).warnings == ()


def test_the_main_file_has_the_last_word_and_fragments_follow_their_names(files: Files) -> None:
    loaded = files.load(
        "server.port: 3\n", f10_setup="server: {port: 1, url: a}\ndebug: true\n", f20_more="server.url: b\n"
    )
    assert (loaded["server.port"], loaded["server.url"], loaded["debug"]) == (3, "b", True)
    assert str(loaded.origin("server.port")) == f"{files.main}:1"
    assert str(loaded.origin("server.url")) == f"{files.fragments}/f20-more.yml:1"
    assert (loaded.origin("debug").file, loaded.origin("debug").line) == (files.fragments / "f10-setup.yml", 2)


def test_other_files_beside_the_fragments_are_ignored(files: Files) -> None:
    for name in ("10.yml.dpkg-old", "10.yaml", "README", ".10.yml", ".10.yml.swp", "10.yml~"):
        (files.fragments / name).write_text("server.port: 1\n")
    assert files.load()["server.port"] == 8443


def test_names_may_be_nested_or_dotted_or_both(files: Files) -> None:
    schema = Schema([Setting("a.b.c"), Setting("a.b.d"), Setting("a.e")])
    files.main.write_text("a:\n  b.c: x\n  e: z\na.b:\n  d: y\n")
    loaded = settings.load(schema, files.main, files.fragments)
    assert (loaded["a.b.c"], loaded["a.b.d"], loaded["a.e"]) == ("x", "y", "z")


def test_a_value_given_twice_in_one_file_is_an_error_whichever_way_it_is_written(files: Files) -> None:
    with pytest.raises(SettingsError, match=r"server.yml:3: server.port: given twice \(first on line 2\)"):
        files.load("server:\n  port: 1\nserver.port: 2\n")


def test_an_empty_value_means_the_default_and_says_so(files: Files) -> None:
    loaded = files.load("server.port:\n", f10="server.port: 1\n")
    assert (loaded["server.port"], str(loaded.origin("server.port"))) == (8443, f"{files.main}:1")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("server.port", "1", 1),
        ("debug", "yes", True),
        ("ratio", "1", 1.0),
        ("interval", "3h", timedelta(hours=3)),
        ("interval", "90", timedelta(seconds=90)),
        ("networks", "[10.0.0.0/8, '::1']", ["10.0.0.0/8", "::1"]),
        ("weekdays", "[tue, mon]", ["tue", "mon"]),
        ("people", "{anna: {mail: a@x}}", {"anna": {"mail": "a@x"}}),
        ("place", "/srv/x", Path("/srv/x")),
        ("level", "debug", "debug"),
        ("server.url", "'5'", "5"),
    ],
)
def test_values_have_the_type_of_their_setting(files: Files, name: str, text: str, value: Any) -> None:
    found = files.load(f"{name}: {text}\n")[name]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("server.port", "abc", "expected a whole number, found 'abc'"),
        ("server.port", "true", "expected a whole number, found True"),
        ("server.port", "1.5", "expected a whole number, found 1.5"),
        ("server.port", "0", "0 is less than 1"),
        ("server.port", "70000", "70000 is more than 65535"),
        ("server.port", "[1]", "expected a whole number, found a list"),
        ("server.url", "1.10", "expected text: put 1.1 into quotes"),
        ("server.url", "yes", "expected text: put True into quotes"),
        ("server.url", "{a: 1}", "expected text, found a mapping"),
        ("debug", "'yes'", "expected true or false, found 'yes'"),
        ("debug", "1", "expected true or false, found 1"),
        ("interval", "soon", "'soon' is not a duration"),
        ("interval", "5s", "'5s' is less than 1m"),
        ("interval", "true", "expected a duration"),
        ("networks", "10.0.0.0/8", "expected a list, found '10.0.0.0/8'"),
        ("networks", "[[a]]", "expected a list"),
        ("weekdays", "[mon, sun]", "'sun' is none of mon, tue"),
        ("people", "[a]", "expected a mapping"),
        ("place", "relative", "expected an absolute path, found 'relative'"),
        ("level", "loud", "'loud' is none of debug, info"),
        ("workers", "3", "3 is odd"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_with_file_line_and_name(
    files: Files, name: str, text: str, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        files.load(f"# first line\n{name}: {text}\n")
    assert str(caught.value).startswith(f"{files.main}:2: {name}: {message}")


def test_a_value_where_a_section_belongs_is_an_error(files: Files) -> None:
    with pytest.raises(SettingsError, match=r"server.yml:1: server: a section"):
        files.load("server: 5\n")


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("debug: true\nserver.prot: 1\n", ":2: unknown setting 'server.prot' (did you mean 'server.port'?)"),
        ("server:\n  prot: 1\n", ":2: unknown setting 'server.prot' (did you mean 'server.port'?)"),
        ("srver:\n  port: 1\n  url: x\n", ":1: unknown setting 'srver' (did you mean 'server'?)"),
        ("qqqqqqqq: 1\n", ":1: unknown setting 'qqqqqqqq'"),
    ],
)
def test_an_unknown_name_is_a_warning_with_file_and_line(files: Files, text: str, warning: str) -> None:
    assert files.load(text).warnings == (f"{files.main}{warning}",)


def test_a_broken_file_is_an_error_and_not_passed_over(files: Files) -> None:
    with pytest.raises(SettingsError, match=r"f10.yml:1: "):
        files.load(f10="a: [")


def test_a_file_that_cannot_be_read_is_an_error_and_not_passed_over(files: Files) -> None:
    files.main.mkdir()
    with pytest.raises(SettingsError, match=r"server.yml"):
        settings.load(SCHEMA, files.main, files.fragments)


@pytest.mark.parametrize("text", ["password: 987654321\n", "pin: 98765\n", "pin: 7\n", "pin: hunter2hunter2\n"])
def test_a_secret_is_in_no_error(files: Files, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        files.load(text)
    value = text.split()[1]
    error: BaseException | None = caught.value
    while error is not None:
        assert value not in str(error).replace(f"{files.main}:1", "")
        error = error.__cause__


def test_a_secret_is_in_no_representation(files: Files) -> None:
    loaded = files.load("password: hunter2\npin: 98766\nserver.url: x\n")
    assert loaded["password"] == "hunter2"
    assert "hunter2" not in repr(loaded)
    assert "98766" not in repr(loaded)
    assert (loaded.shown("password"), loaded.shown("server.url")) == ("********", "x")
    assert files.load().shown("password") == ""


def test_values_are_shown_as_a_file_has_them(files: Files) -> None:
    loaded = files.load()
    assert (loaded.shown("interval"), loaded.shown("place"), loaded.shown("networks")) == ("15m", "/var/place", [])


def test_a_section_has_the_rest_of_the_names(files: Files) -> None:
    assert files.load("server.port: 1\n").section("server") == {"url": None, "port": 1}


def test_a_name_that_is_not_declared_is_a_key_error(files: Files) -> None:
    loaded = files.load()
    for look in (loaded.__getitem__, loaded.origin):
        with pytest.raises(KeyError):
            look("server.prot")


def test_settings_can_be_made_without_files() -> None:
    made = Settings.of(SCHEMA, {"interval": "2h", "server.url": "x"})
    assert (made["interval"], made["server.url"], made["server.port"]) == (timedelta(hours=2), "x", 8443)
    with pytest.raises(SettingsError, match="unknown"):
        Settings.of(SCHEMA, {"nope": 1})
    with pytest.raises(SettingsError, match=r"^server\.port: "):
        Settings.of(SCHEMA, {"server.port": "x"})


def test_a_fragment_that_is_written_is_read_as_the_same(files: Files) -> None:
    path = files.fragments / "10-setup.yml"
    values = {
        "server.url": "10:30",
        "interval": timedelta(hours=1),
        "place": Path("/x"),
        "networks": ["a", "on"],
        "people": {"a.b": {"c": 1}},
        "debug": True,
    }
    settings.write_fragment(path, values, mode=0o600)
    loaded = files.load()
    assert {name: loaded[name] for name in values} == values
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert text.startswith("# Written by PenguinDome")
    names = [line.split(":")[0] for line in text.splitlines() if line[0] not in "# -"]
    assert names == sorted(values)


def test_a_fragment_can_be_read_for_changing_it(files: Files) -> None:
    path = files.fragments / "10-setup.yml"
    assert settings.read_fragment(path) == {}
    settings.write_fragment(path, {"server.url": "a", "server.port": 1})
    settings.write_fragment(path, {**settings.read_fragment(path), "server.url": "b"})
    assert settings.read_fragment(path) == {"server.url": "b", "server.port": 1}


def test_an_empty_fragment_is_a_fragment(files: Files) -> None:
    settings.write_fragment(files.fragments / "10-setup.yml", {})
    assert files.load().warnings == ()


def test_the_sample_has_every_setting_commented_out_at_its_default(tmp_path: Path) -> None:
    text = settings.sample(SCHEMA)
    assert yaml_files.parse(text, "sample").value is None
    assert all(line.startswith("#") or not line for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= 120
    uncommented = "".join(
        line[1:] + "\n" for line in text.splitlines() if line.startswith("#") and not line.startswith("# ")
    )
    (tmp_path / "server.yml").write_text(uncommented)
    loaded = settings.load(SCHEMA, tmp_path / "server.yml", tmp_path / "none")
    assert {name: loaded[name] for name in loaded} == {setting.name: setting.default for setting in SCHEMA}
    assert loaded.warnings == ()


def test_declarations_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        Schema([Setting("a"), Setting("a")])
    with pytest.raises(ValueError, match="section"):
        Schema([Setting("a"), Setting("a.b")])
