"""Lay out what the packages of all distributions share: `python -m penguindome_tools.packaging.tree ROLE KIND ROOT`.

ROLE is client or server, KIND the value of `package-kind` (deb, pacman), ROOT the directory that becomes `/`. Wheels
come from the wheelhouse; nothing is downloaded. SOURCE_DATE_EPOCH in the environment gives everything its date. It runs
in a Python environment with what tools/locks/packaging.txt names. The server's package carries the client's packages,
which lie in the directory that `--client-packages` names.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from hashlib import sha256
from pathlib import Path

from penguindome.client.settings import CLIENT_SETTINGS
from penguindome.settings import sample
from penguindome_server.settings import SERVER_SETTINGS
from penguindome_tools.packaging.documentation import write_documentation
from penguindome_tools.packaging.wheel import make_wheel

CHECKOUT = Path(__file__).resolve().parents[3]
PKG_SETUP = Path(__file__).with_name("pkg_setup.py")
COMMANDS = {
    "client": ("penguindome-client", "penguindome.client.cli"),
    "server": ("penguindome", "penguindome_tools.cli"),
}
"""Role -> its command, and the module that the command runs."""
PLUGINS = {"client": "usr/lib/penguindome/client/plugins", "server": "usr/share/penguindome/client/plugins"}
"""Role -> where the plugins lie: the server's are those of the client, for its first manifest."""
CARRIED = "usr/share/penguindome/packages"
KINDS = ("*.deb", "*.pkg.tar.zst")
SETTINGS_HEADER = """\
# What stands here wins over all files in {role}.d/. Everybody may read this file: what is secret belongs there.

"""
WRAPPER = """\
#!/bin/sh
python=/usr/lib/penguindome/{role}/venv/bin/python
if [ ! -x "$python" ]; then
    echo "{command}: its Python environment is missing; make it: sudo /usr/lib/penguindome/{role}/pkg-setup venv" >&2
    exit 69
fi
exec "$python" -I -m {module} "$@"
"""


def main() -> None:
    """Lay out one role."""
    parser = argparse.ArgumentParser(description="Lay out what the packages of all distributions share.")
    parser.add_argument("role", choices=COMMANDS)
    parser.add_argument("kind", choices=("deb", "pacman"))
    parser.add_argument("root", type=Path)
    parser.add_argument("--wheelhouse", type=Path, default=CHECKOUT / ".cache/wheelhouse")
    parser.add_argument("--client-packages", type=Path, default=CHECKOUT / "client-packages")
    options = parser.parse_args()
    os.umask(0o022)
    lay_out(options.role, options.kind, options.root, options.wheelhouse)
    if options.role == "server":
        carry(options.client_packages, options.root / CARRIED)


def lay_out(role: str, kind: str, root: Path, wheelhouse: Path) -> None:
    """Write all files of `role` below `root`."""
    home = root / "usr/lib/penguindome" / role
    wheel = _lay_wheels(role, home, wheelhouse)
    _put(PKG_SETUP, home / "pkg-setup", 0o755)
    if role == "client":
        (home / "package-kind").write_text(f"{kind}\n")
    for plugin in sorted((CHECKOUT / "plugins").glob("*.py")):
        _put(plugin, root / PLUGINS[role] / plugin.name, 0o755)
    command, module = COMMANDS[role]
    program = root / "usr/bin" / command
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(WRAPPER.format(role=role, command=command, module=module))
    program.chmod(0o755)
    _write_settings(role, root)
    # The command line asks for the version of the distribution, which the wheel knows.
    sys.path.append(str(wheel))
    write_documentation(role, root)


def carry(packages: Path, target: Path) -> None:
    """Put the client's packages, one of each kind, into the server's."""
    for pattern in KINDS:
        found = sorted(packages.glob(f"penguindome-client{pattern}"))
        if len(found) != 1:
            sys.exit(f"tree: {packages} holds {len(found)} packages penguindome-client{pattern}; there must be one")
        _put(found[0], target / found[0].name, 0o644)


def _write_settings(role: str, root: Path) -> None:
    """Write the administrator's file, with every setting commented out at its default."""
    schema = CLIENT_SETTINGS if role == "client" else SERVER_SETTINGS
    file = root / "etc/penguindome" / f"{role}.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(SETTINGS_HEADER.format(role=role) + sample(schema))
    file.chmod(0o644)


def _lay_wheels(role: str, home: Path, wheelhouse: Path) -> Path:
    """Put the wheels of `role`, pip's and our own beside the list of their hashes; returns our own."""
    wheels = home / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    requirements = (wheelhouse / f"{role}.txt").read_text()
    for path in sorted((wheelhouse / "wheels").iterdir()):
        if path.name.startswith("pip-") or sha256(path.read_bytes()).hexdigest() in requirements:
            _put(path, wheels / path.name, 0o644)
    own = make_wheel(role, wheels)
    name, version, *_ = own.name.split("-")
    digest = sha256(own.read_bytes()).hexdigest()
    (home / "requirements.txt").write_text(f"{requirements}{name}=={version} \\\n    --hash=sha256:{digest}\n")
    return own


def _put(source: Path, target: Path, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


if __name__ == "__main__":
    main()
