"""Where things lie on a machine. Every path hangs off one root, `/` unless PENGUINDOME_ROOT says otherwise."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT_VARIABLE = "PENGUINDOME_ROOT"


@dataclass(frozen=True)
class Paths:
    """The places of the file system hierarchy that PenguinDome uses, below `root`."""

    root: Path = Path("/")

    @classmethod
    def from_environment(cls) -> Paths:
        """The paths below the root that the environment variable PENGUINDOME_ROOT names (default `/`)."""
        return cls(Path(os.environ.get(ROOT_VARIABLE) or "/").absolute())

    @property
    def settings(self) -> Path:
        """Settings of server and client: `server.yml`, `client.yml` and their fragments."""
        return self.root / "etc/penguindome"

    @property
    def server_code(self) -> Path:
        """Code and private venv of the server."""
        return self.root / "usr/lib/penguindome/server"

    @property
    def client_code(self) -> Path:
        """Code, private venv and `plugins/` of the client: the tree that manifests name files of."""
        return self.root / "usr/lib/penguindome/client"

    @property
    def client_tree(self) -> Path:
        """On a server: the plugins of the clients' packages, which the server's package carries to sign them."""
        return self.root / "usr/share/penguindome/client"

    @property
    def server_state(self) -> Path:
        """What the service user owns: the embedded store, recordings, web state."""
        return self.root / "var/lib/penguindome/server"

    @property
    def releases(self) -> Path:
        """Signed by root, read by the service: certificates, manifests, releases."""
        return self.root / "var/lib/penguindome/releases"

    @property
    def repository(self) -> Path:
        """The site's signed repositories of packages, made by root, read by the service."""
        return self.root / "var/lib/penguindome/repo"

    @property
    def client_packages(self) -> Path:
        """On a server: the client's packages that its own package carries, from which releases are made."""
        return self.root / "usr/share/penguindome/packages"

    @property
    def client_cache(self) -> Path:
        """On a client: packages of releases, as they were downloaded; can be fetched again."""
        return self.root / "var/cache/penguindome/client"

    @property
    def keys(self) -> Path:
        """Private signing keys; root alone (0700)."""
        return self.root / "var/lib/penguindome/keys"

    @property
    def client_state(self) -> Path:
        """The client's own: device key, spool, cache, manifest, accepted actions; root alone (0700)."""
        return self.root / "var/lib/penguindome/client"

    @property
    def logs(self) -> Path:
        """Rotated files of the local debug log: `server/`, `admin/`, `client/`."""
        return self.root / "var/log/penguindome"

    @property
    def runtime(self) -> Path:
        """Locks, sockets and process files that do not outlive a boot."""
        return self.root / "run/penguindome"
