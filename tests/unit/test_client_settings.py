"""Settings of the client, and what plugins can ask of it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from penguindome.client import get_logger, get_setting
from penguindome.client.settings import CLIENT_SETTINGS, load_client_settings
from penguindome.logging import reset
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.settings import sample


@pytest.fixture
def root(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """The machine's settings, as a plugin finds them."""
    monkeypatch.setenv(ROOT_VARIABLE, str(paths.root))
    (paths.settings / "client.d").mkdir(parents=True)
    (paths.settings / "client.yml").write_text(
        "schedule.collect_interval: 5m\nplugin_settings:\n  geolocation:\n    api_key: k\n  printer.queue: q\n"
    )
    return paths


def test_every_default_is_a_value_of_its_kind() -> None:
    for setting in CLIENT_SETTINGS:
        assert setting.default is None or setting.description
        assert setting.default is None or not isinstance(setting.default, str) or setting.kind_name == "str"


def test_a_sample_of_all_settings_can_be_made() -> None:
    assert "#schedule.collect_interval: 15m\n" in sample(CLIENT_SETTINGS)


def test_the_administrators_file_has_the_last_word(root: Paths) -> None:
    (root.settings / "client.d/90.yml").write_text("schedule.collect_interval: 1h\n")
    assert load_client_settings(root)["schedule.collect_interval"] == timedelta(minutes=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schedule.collect_interval", timedelta(minutes=5)), ("geolocation.api_key", "k"), ("printer.queue", "q"),
        ("geolocation", {"api_key": "k"}), ("geolocation.nothing", "default"), ("nothing", "default"),
    ],
)  # fmt: skip
def test_plugins_get_settings_by_name(root: Paths, name: str, value: object) -> None:
    assert get_setting(name, "default") == value


def test_a_setting_that_is_nowhere_is_none(root: Paths) -> None:
    assert get_setting("nothing") is None


def test_plugins_log_into_the_clients_log(root: Paths) -> None:
    get_logger("a plugin").info("something happened")
    reset()
    assert "something happened" in (root.logs / "client/debug.log").read_text()
