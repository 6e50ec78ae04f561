"""Make a release: prepare its trees and manifest, then sign, pack and describe them in a directory of their own.

    with working(paths) as work:
        prepared = prepare(sources, number, now, work, site=site, settings=settings, authorities=authorities)
        staged = make_release(prepared, signing, paths, bundle=bundle)

Everything happens in directories below `Paths.releases` whose names begin with `.release-`. What a killed run leaves
there is of no use to anybody; `remove_leftovers` takes it away.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from penguindome import json
from penguindome.files import sync_directory
from penguindome.manifest import FileEntry, Manifest
from penguindome.openpgp import Certificate
from penguindome.paths import Paths
from penguindome.release import Description, InvalidRelease, PackageFile, build
from penguindome.server_keyring import ServerKeyring
from penguindome.settings import Settings
from penguindome_tools.releases import naming
from penguindome_tools.releases.carried_settings import require_closed
from penguindome_tools.releases.content import LIFE, TREE, build_manifest, lay_authorities, lay_over
from penguindome_tools.releases.packing import PACKERS, Stamp, pack_tar
from penguindome_tools.releases.site_files import SiteFiles
from penguindome_tools.releases.sources import Declared, declared
from penguindome_tools.releases.staged import ARMOURED, DESCRIPTION, MANIFEST, StagedRelease
from penguindome_tools.releases.tar_contents import beside, tar_root
from penguindome_tools.releases.unpacking import Unpacked, unpack

PREFIX = ".release-"
KIND_FILE = "package-kind"
SIGNATURE = ".sig"


@dataclass(frozen=True)
class Signing:
    """Root's keyring, the certificates of the server key and of those before it, who may read what is secret."""

    keyring: ServerKeyring
    certificate: Certificate
    earlier: tuple[Certificate, ...] = ()
    secret_group: int | None = None
    """The id of the group that may read the tar; None where there is no service user."""

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """Those that this server signed releases by, the one in use first."""
        return (self.certificate, *self.earlier)

    @property
    def fingerprint(self) -> str:
        """That of the server key."""
        return self.certificate.fingerprint

    def sign(self, path: Path, data: bytes) -> None:
        """Write the armoured signature of a file beside it."""
        path.with_name(path.name + ARMOURED).write_bytes(self.keyring.sign(data, self.fingerprint))


@dataclass(frozen=True)
class Prepared:
    """The trees of a release, one for each kind of package, and the text of the manifest that all of them have."""

    stamp: Stamp
    trees: Mapping[str, Unpacked]
    declared: Mapping[str, Declared]
    machine: str
    manifest_text: bytes

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """What the manifest names."""
        return Manifest.from_content(json.loads(self.manifest_text), self.manifest_text).files


@contextmanager
def working(paths: Paths) -> Iterator[Path]:
    """A directory for the trees, root's alone, on the file system of the releases; it is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}work-", dir=paths.releases))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def remove_leftovers(paths: Paths) -> None:
    """Remove what runs that were killed left. To be called when no other run is at work."""
    for path in paths.releases.glob(f"{PREFIX}*"):
        shutil.rmtree(path)


def prepare(
    sources: Mapping[str, tuple[str, Path]],
    number: int,
    now: datetime,
    work: Path,
    *,
    site: SiteFiles | None,
    settings: Settings,
    authorities: str,
) -> Prepared:
    """Unpack the packages (kind to be made -> kind and file of its source), and lay over them what the site adds, and
    the `authorities` (PEM) that clients shall trust for TLS.

    `site` None leaves all other content as it is: that of an older release. Raises InvalidRelease when the packages
    do not fit together, SiteFileRefused or SettingsError for what is laid over them.
    """
    issued_at = now.replace(microsecond=0)
    trees: dict[str, Unpacked] = {}
    said: dict[str, Declared] = {}
    texts: dict[str, bytes] = {}
    for kind, (source, package) in sources.items():
        unpacked = unpack(source, package, work / kind)
        said[kind] = declared(source, unpacked)
        tree = unpacked.root / TREE
        if not (tree / "plugins").is_dir():
            raise InvalidRelease(f"{package} holds no client")
        (tree / KIND_FILE).write_text(f"{kind}\n")
        if site is not None:
            lay_over(tree, site, settings)
        require_closed(settings, tree)
        lay_authorities(tree, authorities)
        texts[kind] = build_manifest(tree, number, issued_at, work / f"{kind}.named")
        trees[kind] = unpacked
    machine = _require_one(said, texts, sources)
    base = next(iter(said.values())).base
    return Prepared(Stamp(number, base, issued_at), trees, said, machine, next(iter(texts.values())))


def _require_one(
    said: Mapping[str, Declared], texts: Mapping[str, bytes], sources: Mapping[str, tuple[str, Path]]
) -> str:
    """The machine that all packages are for; they must be of one version and hold the same client."""
    versions = dict.fromkeys(f"{sources[kind][1].name}: {each.base}" for kind, each in said.items())
    if len({each.base for each in said.values()}) != 1:
        names = "; ".join(versions)
        raise InvalidRelease(f"the client's packages are of different versions: {names}", hint="build both anew")
    machines = {naming.machine_of(each.architecture) for each in said.values()}
    if len(machines) != 1:
        raise InvalidRelease(f"the client's packages are for different machines: {', '.join(sorted(machines))}")
    if len(set(texts.values())) != 1:
        raise InvalidRelease(
            f"the client's packages hold different clients, for they were not built of the same sources: "
            f"{_differing(texts.values())}",
            hint="build both anew",
        )
    return machines.pop()


def _differing(texts: Iterable[bytes]) -> str:
    """Names of files that are not the same in all of these manifests, three at the most."""
    files = [json.loads(text)["files"] for text in texts]
    names = sorted(name for name in set().union(*files) if any(each.get(name) != files[0].get(name) for each in files))
    more = f", and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def make_release(
    prepared: Prepared,
    signing: Signing,
    paths: Paths,
    *,
    bundle: str,
    steps: Callable[[list[str]], Iterator[str]] = iter,
) -> StagedRelease:
    """Sign the manifest, make the packages, sign and describe them, all in a new directory; returns it.

    `bundle` is the text of the enrolment bundle that goes into the tar. `steps` is passed the names of the steps, and
    gives them back one after the other: a progress bar. To be called within `working`. Whatever fails, the directory is
    gone. Raises KeyMaterialError, InvalidRelease, ProcessError, MissingTool or OSError.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{prepared.stamp.number}-", dir=paths.releases))
    try:
        directory.chmod(0o755)
        manifest_file = directory / MANIFEST
        manifest_file.write_bytes(prepared.manifest_text)
        packages: dict[str, PackageFile] = {}
        for step in steps(["manifest", *prepared.trees]):
            if step == "manifest":
                signing.sign(manifest_file, prepared.manifest_text)
            else:
                packages[step] = _make_package(step, prepared, directory, signing, bundle)
        description = _describe(directory, prepared, packages, signing)
        signature = manifest_file.with_name(MANIFEST + ARMOURED).read_bytes()
        manifest = Manifest.load(prepared.manifest_text, signature, signing.certificate)
        _sync(directory)
        return StagedRelease(directory, prepared.stamp.number, description, manifest)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _make_package(kind: str, prepared: Prepared, directory: Path, signing: Signing, bundle: str) -> PackageFile:
    stamp, unpacked = prepared.stamp, prepared.trees[kind]
    tree = unpacked.root / TREE
    for name in (MANIFEST, MANIFEST + ARMOURED):
        shutil.copy(directory / name, tree / name)
        (tree / name).chmod(0o644)
    name = naming.file_name(kind, stamp.number, stamp.base, prepared.declared[kind].architecture)
    target = directory / name
    if kind == "tar":
        top = name.removesuffix(".tar")
        pack_tar(tar_root(unpacked), stamp, beside(stamp, prepared.machine, bundle), top, target)
    else:
        PACKERS[kind](unpacked, stamp, target)
        target.chmod(0o644)
    data = target.read_bytes()
    if kind == "pacman":
        signature = target.with_name(name + SIGNATURE)
        signature.write_bytes(signing.keyring.sign_binary(data, signing.fingerprint))
    elif kind == "tar":
        signing.sign(target, data)
        if signing.secret_group is not None:
            os.chown(target, 0, signing.secret_group)
        target.chmod(0o640)
    return PackageFile(name, sha256(data).hexdigest(), len(data))


def _describe(
    directory: Path, prepared: Prepared, packages: Mapping[str, PackageFile], signing: Signing
) -> Description:
    stamp = prepared.stamp
    text = build(
        release=stamp.number,
        version=naming.version(stamp.number, stamp.base),
        machine=prepared.machine,
        issued_at=stamp.issued_at,
        expires_at=stamp.issued_at + LIFE,
        manifest_sha256=sha256(prepared.manifest_text).hexdigest(),
        packages=packages,
    )
    (directory / DESCRIPTION).write_bytes(text)
    signing.sign(directory / DESCRIPTION, text)
    return Description.load(text, (directory / (DESCRIPTION + ARMOURED)).read_bytes(), signing.certificate)


def _sync(directory: Path) -> None:
    """Bring everything onto the disk; signatures and texts can be read by all."""
    for path in directory.iterdir():
        if path.suffix != ".tar":
            path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(directory)
