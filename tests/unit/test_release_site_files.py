"""What a site may lay over the client, and what it is told of what it may not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from needs import require
from penguindome.errors import PenguinDomeError, SettingsError
from penguindome.paths import Paths
from penguindome.settings import read_fragment
from penguindome_server.settings import load_server_settings
from penguindome_tools.releases.carried_settings import carried, require_closed, warnings
from penguindome_tools.releases.content import lay_authorities, lay_over, names_of, set_modes
from penguindome_tools.releases.site_files import SiteFileRefused, load_release_settings, read_site_files

PROGRAM = b"#!/bin/sh\necho '{}'\n"


@pytest.fixture
def plugins(paths: Paths) -> Path:
    for name in ("plugins.d", "commands.d", "client-release.d"):
        (paths.settings / name).mkdir(parents=True)
    return paths.settings / "plugins.d"


def program(path: Path, contents: bytes = PROGRAM, mode: int = 0o755) -> Path:
    path.write_bytes(contents)
    path.chmod(mode)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A client's tree with two plugins."""
    made = tmp_path / "tree"
    (made / "plugins").mkdir(parents=True)
    for name in ("os_info.py", "sshd.py"):
        program(made / "plugins" / name, b"shipped")
    return made


def laid_over(paths: Paths, tree: Path) -> set[str]:
    lay_over(tree, read_site_files(paths), load_server_settings(paths))
    return set(names_of(tree))


def test_a_site_without_files_leaves_the_client_as_it_is(paths: Paths, tree: Path) -> None:
    assert laid_over(paths, tree) == {"plugins/os_info.py", "plugins/sshd.py"}


def test_plugins_are_added_replaced_and_left_out(paths: Paths, plugins: Path, tree: Path) -> None:
    program(plugins / "printers")
    program(plugins / "os_info.sh")
    (plugins / "sshd.disabled").touch()
    (plugins / ".printers.swp").touch()
    assert laid_over(paths, tree) == {"plugins/os_info.sh", "plugins/printers"}
    assert (tree / "plugins/os_info.sh").read_bytes() == PROGRAM


def test_the_file_that_leaves_a_plugin_out_may_have_the_plugins_extension(
    paths: Paths, plugins: Path, tree: Path
) -> None:
    (plugins / "sshd.py.disabled").write_text("we have no sshd\n")
    assert laid_over(paths, tree) == {"plugins/os_info.py"}


def test_one_time_commands_are_laid_beside_the_plugins(paths: Paths, plugins: Path, tree: Path) -> None:
    program(paths.settings / "commands.d/clean-up")
    assert "commands/clean-up" in laid_over(paths, tree)


def not_executable(directory: Path) -> None:
    program(directory / "x", mode=0o644)


def empty(directory: Path) -> None:
    program(directory / "x", b"")


def link(directory: Path) -> None:
    program(directory.parent / "elsewhere")
    (directory / "x").symlink_to(directory.parent / "elsewhere")


def subdirectory(directory: Path) -> None:
    (directory / "x").mkdir()


def fifo(directory: Path) -> None:
    os.mkfifo(directory / "x")


def changeable(directory: Path) -> None:
    program(directory / "x", mode=0o775)


def changeable_directory(directory: Path) -> None:
    program(directory / "x")
    directory.chmod(0o777)


@pytest.mark.parametrize(
    "name",
    ["gone.py~", "gone.bak", "gone.py.orig", "gone.swo", "gone.dpkg-old", "gone.py.ucf-dist", "gone.pacnew", "#gone#"],
)
@pytest.mark.parametrize("directory", ["plugins.d", "commands.d"])
def test_what_is_left_of_a_file_that_was_deleted_does_not_bring_it_back(
    paths: Paths, plugins: Path, directory: str, name: str
) -> None:
    program(paths.settings / directory / name)
    with pytest.raises(SiteFileRefused, match="left"):
        read_site_files(paths)


def newline(directory: Path) -> None:
    program(directory / "x\ny")


def backslash(directory: Path) -> None:
    program(directory / "x\\y")


def underscore(directory: Path) -> None:
    program(directory / "_x")


def own_name(directory: Path) -> None:
    program(directory / "penguindome.py")


def twice(directory: Path) -> None:
    program(directory / "x.py")
    program(directory / "x.sh")


def too_large(directory: Path) -> None:
    program(directory / "x", b"#" * (4 * 1024 * 1024 + 1))


REFUSED = {
    not_executable: "is not executable",
    empty: "is empty",
    link: "is a link",
    subdirectory: "is a directory",
    fifo: "is no file",
    changeable: "by others than root",
    changeable_directory: "by others than root",
    newline: "a name that no release can have",
    backslash: "a name that no release can have",
    underscore: "begin with _",
    own_name: "reports under the name 'penguindome'",
    twice: "reports under the name 'x'",
    too_large: "larger than",
}


@pytest.mark.parametrize("kind", ["plugins.d", "commands.d"])
@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_cannot_be_part_of_a_release_is_refused_with_what_to_do(
    paths: Paths, plugins: Path, kind: str, make: Callable[[Path], None]
) -> None:
    make(paths.settings / kind)
    with pytest.raises(SiteFileRefused, match=REFUSED[make]) as refused:
        read_site_files(paths)
    assert kind in refused.value.message
    assert refused.value.hint
    assert "\n" not in refused.value.message


def test_a_file_of_another_user_is_refused(paths: Paths, plugins: Path) -> None:
    require(os.geteuid() == 0, "only root can give files away")
    os.chown(program(plugins / "x"), 65534, 65534)
    with pytest.raises(SiteFileRefused, match="belongs to another user"):
        read_site_files(paths)


def test_leaving_out_what_is_not_shipped_is_refused_with_what_is(paths: Paths, plugins: Path, tree: Path) -> None:
    (plugins / "sssd.disabled").touch()
    with pytest.raises(SiteFileRefused, match="not shipped") as refused:
        laid_over(paths, tree)
    assert "os_info, sshd" in str(refused.value.hint)


def test_a_plugin_that_is_both_there_and_left_out_is_refused(paths: Paths, plugins: Path) -> None:
    program(plugins / "x")
    (plugins / "x.disabled").touch()
    with pytest.raises(SiteFileRefused, match="leaves out"):
        read_site_files(paths)


def server(paths: Paths, text: str) -> None:
    paths.settings.mkdir(parents=True, exist_ok=True)
    (paths.settings / "server.yml").write_text(text)


def released(paths: Paths, name: str, text: str) -> None:
    (paths.settings / "client-release.d" / name).write_text(text)


def test_settings_of_the_server_become_settings_of_clients(paths: Paths, plugins: Path, tree: Path) -> None:
    server(
        paths,
        "schedule: {collect_interval: 30m}\nclients:\n  geolocation_key: the-key\n  logging: {handler: syslog}\n",
    )
    released(paths, "50-site.yml", "plugins.timeout: 3m\n")
    laid_over(paths, tree)
    assert read_fragment(tree / "settings/10-server.yml") == {
        "schedule.collect_interval": "30m",
        "logging.handler": "syslog",
    }
    assert (tree / "settings/50-site.yml").read_text() == "plugins.timeout: 3m\n"


def test_the_geolocation_key_is_in_a_file_of_its_own_that_root_alone_may_read(
    paths: Paths, plugins: Path, tree: Path
) -> None:
    server(paths, "schedule.collect_interval: 30m\nclients.geolocation_key: the-key\n")
    laid_over(paths, tree)
    set_modes(tree)
    holding = {path.name: path.stat().st_mode & 0o777 for path in tree.rglob("*.*") if b"the-key" in path.read_bytes()}
    assert holding == {"10-server-private.yml": 0o600}
    assert read_fragment(tree / "settings/10-server-private.yml") == {"plugin_settings.geolocation.api_key": "the-key"}
    assert (tree / "settings/10-server.yml").stat().st_mode & 0o777 == 0o644


def test_the_geolocation_key_is_carried_only_once_settings_say_who_may_download(
    paths: Paths, plugins: Path, tree: Path
) -> None:
    server(paths, "clients.geolocation_key: the-key\n")
    laid_over(paths, tree)
    with pytest.raises(SettingsError, match=r"could read clients\.geolocation_key") as refused:
        require_closed(load_server_settings(paths), tree)
    assert "the-key" not in f"{refused.value.message} {refused.value.hint}"
    server(paths, "clients.geolocation_key: the-key\nserver_auth.download_release.ipranges: [192.0.2.0/24]\n")
    require_closed(load_server_settings(paths), tree)


def test_a_release_that_holds_no_geolocation_key_may_be_open(paths: Paths, plugins: Path, tree: Path) -> None:
    laid_over(paths, tree)
    require_closed(load_server_settings(paths), tree)


def test_certificates_take_the_place_of_those_of_an_older_release(tree: Path) -> None:
    lay_authorities(tree, "of today\n")
    assert (tree / "settings/ca.pem").read_text() == "of today\n"
    assert "settings/ca.pem" in names_of(tree)
    lay_authorities(tree, "")
    assert "settings/ca.pem" not in names_of(tree)


@pytest.mark.parametrize("text", ["server.url: https://another.example\n", "ca_certificate: /etc/ssl/site.pem\n"])
def test_a_setting_that_does_nothing_in_a_release_is_warned_about(paths: Paths, plugins: Path, text: str) -> None:
    released(paths, "50-site.yml", f"\n{text}")
    (warning,) = warnings(load_server_settings(paths), load_release_settings(paths))
    assert f"50-site.yml:2: {text.partition(':')[0]} is of no use in a release" in warning


def test_what_the_server_does_not_set_is_left_to_the_clients(paths: Paths, plugins: Path, tree: Path) -> None:
    assert carried(load_server_settings(paths)) == {}
    assert "settings/10-server.yml" not in laid_over(paths, tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugins:\n  timeout: soon\n", r"50-site.yml:2: plugins.timeout: 'soon' is not a duration"),
        ("plugins: [\n", r"50-site.yml:1: "),
        ("schedule: 5\n", r"50-site.yml:1: schedule: a section"),
    ],
)
def test_settings_that_clients_cannot_have_are_refused_with_file_and_line(
    paths: Paths, plugins: Path, text: str, message: str
) -> None:
    released(paths, "50-site.yml", text)
    with pytest.raises(SettingsError, match=message):
        read_site_files(paths)


def test_an_unknown_setting_is_warned_about_with_file_and_line(paths: Paths, plugins: Path) -> None:
    released(paths, "50-site.yml", "\nplugins.timeuot: 3m\n")
    (warning,) = read_site_files(paths).warnings
    assert "50-site.yml:2: unknown setting 'plugins.timeuot'" in warning


@pytest.mark.parametrize("name", ["10-server.yml", "10-server-private.yml"])
def test_the_name_of_a_file_of_the_servers_own_is_taken(paths: Paths, plugins: Path, tree: Path, name: str) -> None:
    released(paths, name, "plugins.timeout: 3m\n")
    with pytest.raises(SettingsError, match="has the name of the file"):
        laid_over(paths, tree)


def test_a_map_that_hides_the_geolocation_key_is_warned_about(paths: Paths, plugins: Path) -> None:
    server(paths, "clients.geolocation_key: the-key\n")
    released(paths, "50-site.yml", "plugin_settings:\n  os_info: {short: true}\n")
    (warning,) = warnings(load_server_settings(paths), load_release_settings(paths))
    assert "50-site.yml:1" in warning
    released(paths, "50-site.yml", "plugin_settings:\n  geolocation: {api_key: another}\n")
    assert warnings(load_server_settings(paths), load_release_settings(paths)) == []


def test_refusals_are_errors_of_ours() -> None:
    assert issubclass(SiteFileRefused, PenguinDomeError)
