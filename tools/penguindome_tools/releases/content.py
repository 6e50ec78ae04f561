"""What a release consists of: the client's tree with the site's files over it, and the manifest of it."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from penguindome import manifest
from penguindome.client.authorities import RELEASED as AUTHORITIES
from penguindome.release import InvalidRelease
from penguindome.settings import Settings
from penguindome_tools.releases.carried_settings import PRIVATE_FRAGMENT, write_settings
from penguindome_tools.releases.site_files import SiteFileRefused, SiteFiles, plugin_name

TREE = "usr/lib/penguindome/client"
"""Where the client's tree lies in packages, and on clients."""
LIFE = timedelta(days=365)
KIND = "release"
CODE = "code"
"""Names in a manifest that begin so are those of our own modules, which the wheel brings: `code/penguindome/...`."""
SINGLE_FILES = ("requirements.txt", "pkg-setup")
DIRECTORIES = ("plugins", "commands", "settings")
PROGRAM_MODE, FILE_MODE, PRIVATE_MODE = 0o755, 0o644, 0o600


def lay_over(tree: Path, site: SiteFiles, settings: Settings) -> None:
    """Lay the site's files and what releases carry of the server's `settings` over the client's `tree`.

    Raises SiteFileRefused or SettingsError.
    """
    plugins = tree / "plugins"
    shipped: dict[str, list[Path]] = {}
    for path in plugins.iterdir():
        shipped.setdefault(plugin_name(path.name), []).append(path)
    for name, path in site.left_out.items():
        if name not in shipped:
            raise SiteFileRefused(
                f"{path} leaves out a plugin that is not shipped", hint=f"there are: {', '.join(sorted(shipped))}"
            )
    for name in {*site.left_out, *(plugin_name(file_name) for file_name in site.plugins)}:
        for path in shipped.get(name, ()):
            path.unlink()
    for directory, programs in ((plugins, site.plugins), (tree / "commands", site.commands)):
        for file_name, contents in programs.items():
            directory.mkdir(exist_ok=True)
            (directory / file_name).write_bytes(contents)
    write_settings(settings, site, tree / "settings")


def lay_authorities(tree: Path, certificates: str) -> None:
    """Let the tree carry these certificates (PEM; "": none), which clients shall trust for TLS: those of today, in a
    release of older content too.
    """
    path = tree / AUTHORITIES
    path.unlink(missing_ok=True)
    if certificates:
        path.parent.mkdir(exist_ok=True)
        path.write_text(certificates)


def names_of(tree: Path) -> list[str]:
    """What a manifest names of the tree: everything in it that may run, or says what runs."""
    names = [name for name in SINGLE_FILES if (tree / name).exists()]
    for directory in DIRECTORIES:
        names += [str(path.relative_to(tree)) for path in (tree / directory).rglob("*") if path.is_file()]
    return names


def set_modes(tree: Path) -> None:
    """Give what the manifest names the mode that it names: programs 0755, what is private 0600, the rest 0644."""
    for name in names_of(tree):
        runs = name == "pkg-setup" or name.startswith(("plugins/", "commands/"))
        private = name == f"settings/{PRIVATE_FRAGMENT}"
        (tree / name).chmod(PROGRAM_MODE if runs else PRIVATE_MODE if private else FILE_MODE)


def build_manifest(tree: Path, number: int, issued_at: datetime, scratch: Path) -> bytes:
    """The text of the manifest of release `number`, whose client's tree is `tree`; to be signed as it is.

    The new directory `scratch` is used. Raises InvalidRelease or ManifestError.
    """
    set_modes(tree)
    return manifest.build(
        scratch,
        lay_out(tree, scratch),
        kind=KIND,
        release=number,
        issued_at=issued_at,
        expires_at=issued_at + LIFE,
    )


def lay_out(tree: Path, scratch: Path) -> list[str]:
    """Put everything that a manifest names of a client into the new directory `scratch`, under these names."""
    names = names_of(tree)
    for name in names:
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / name, scratch / name)
    code = _unpack_code(_own_wheel(tree), scratch / CODE)
    return [*names, *(f"{CODE}/{name}" for name in code)]


def _own_wheel(tree: Path) -> Path:
    found = sorted((tree / "wheels").glob("penguindome-*.whl"))
    if len(found) != 1:
        raise InvalidRelease(f"the client's package holds {len(found)} wheels of penguindome, and not one")
    return found[0]


def _unpack_code(wheel: Path, target: Path) -> Iterable[str]:
    """The modules of our own wheel, with the mode that pip gives them."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith("penguindome/") and name.endswith(".py"):
                    manifest.check_name(name)
                    path = target / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(name))
                    path.chmod(FILE_MODE)
                    yield name
    except zipfile.BadZipFile as error:
        raise InvalidRelease(f"{wheel.name} is no wheel: {error}") from error
