"""Create a release from what is ordered: from the numbers of those before it to its publication."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from penguindome.errors import PenguinDomeError, SignatureError
from penguindome.files import read_limited
from penguindome.manifest import LARGEST, Manifest
from penguindome.openpgp import LONGEST_SIGNATURE
from penguindome.release import InvalidRelease
from penguindome_server.store import Document
from penguindome_tools import tls_trust
from penguindome_tools.context import Context
from penguindome_tools.enrolment_bundle import enrolment_bundle
from penguindome_tools.releases import carried_settings, completion, naming, own_record, records
from penguindome_tools.releases.changes import Change, changes
from penguindome_tools.releases.making import Prepared, Signing, make_release, prepare, working
from penguindome_tools.releases.release_files import ReleaseFiles, load_release
from penguindome_tools.releases.site_files import SiteFiles, load_release_settings, read_site_files
from penguindome_tools.releases.sources import carried_packages, sources_of
from penguindome_tools.releases.staged import ARMOURED, MANIFEST


@dataclass(frozen=True)
class Order:
    """What is to be released. `site` None: the packages' content stays as it is, that of release `content_of`, which
    `origin` tells to people.
    """

    packages: Mapping[str, Path]
    kinds: tuple[str, ...]
    site: SiteFiles | None
    stage: records.Stage
    message: str = ""
    content_of: int | None = None
    origin: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outlook:
    """What a release would be: its number and version, and how it differs from the release `since` (None: the first).
    `origin` says whose content it has, if not that of now.

    `finished` is a release whose publication an earlier run had left unfinished, and this one did the rest of.
    """

    number: int
    version: str
    since: int | None
    changes: list[Change]
    finished: int | None = None
    origin: str = ""
    warnings: list[str] = field(default_factory=list)


def order_of_site(context: Context, packages: Path, stage: records.Stage, message: str) -> Order:
    """What the server's package carries, or `packages` holds, with the site's files over it.

    Raises UsageError, SiteFileRefused or SettingsError.
    """
    with context.as_root():
        site = read_site_files(context.paths)
        released = load_release_settings(context.paths)
        found = carried_packages(packages)
    warnings = (*site.warnings, *carried_settings.warnings(context.settings, released))
    return Order(found, tuple(context.settings["releases.kinds"]), site, stage, message, warnings=warnings)


def order_of_release(context: Context, signing: Signing, old: Document, stage: records.Stage, message: str) -> Order:
    """The content of an older release (its entry in root's own record), whose packages are looked at before anything is
    made of them.

    Raises InvalidRelease when they are gone, or not what was signed.
    """
    number: int = old["release"]
    if old["pruned_at"]:
        raise InvalidRelease(f"the packages of release {number} were removed", hint="choose another: release list")
    with context.as_root():
        held = _load(context.paths.releases / str(number), number, signing)
    packages = {kind: held.directory / package.name for kind, package in held.description.packages.items()}
    wanted = context.settings["releases.kinds"]
    kinds = tuple(kind for kind in wanted if kind in packages or kind == "tar")
    missing = [kind for kind in wanted if kind not in kinds]
    warnings = (f"release {number} has no package of the kind {', '.join(missing)}",) if missing else ()
    newest = own_record.entries(context)[0]["release"]
    origin = f"the content of release {number}, signed on {old['created_at']:%Y-%m-%d}, in place of release {newest}"
    return Order(packages, kinds, None, stage, message, old["content_of"], origin, warnings)


def _load(directory: Path, number: int, signing: Signing) -> ReleaseFiles:
    """The release, verified by the key that was in use when it was made. Raises InvalidRelease or SignatureError."""
    for certificate in signing.earlier:
        try:
            return load_release(directory, number, certificate)
        except SignatureError:
            continue
    return load_release(directory, number, signing.certificate)


def create(
    context: Context,
    order: Order,
    signing: Signing,
    *,
    agree: Callable[[Outlook], bool],
    steps: Callable[[list[str]], Iterator[str]],
    finished: int | None = None,
) -> Document | None:
    """Make and publish a release, unless `agree` says no to what it would be; returns its document.

    To be called within `completion.one_at_a_time`. Raises PenguinDomeError or OSError, with everything as it was.
    """
    sources = sources_of(order.kinds, order.packages)
    numbers = records.numbers(context.paths, context.store)
    number, now = numbers.following, context.clock()
    previous = newest_manifest(context, signing)
    with context.as_root(), working(context.paths) as work:
        prepared = prepare(
            sources, number, now, work, site=order.site, settings=context.settings,
            authorities=tls_trust.for_releases(context.settings, context.paths),
        )  # fmt: skip
        outlook = _outlook(prepared, previous, [*order.warnings, *numbers.unbelievable], finished, order.origin)
        if not agree(outlook):
            return None
        needs_bundle = "tar" in order.kinds
        bundle = enrolment_bundle(context.settings, context.paths, now=now).to_text() if needs_bundle else ""
        staged = make_release(prepared, signing, context.paths, bundle=bundle, steps=steps)
    document = records.new_document(
        number,
        version=staged.description.version,
        content_of=order.content_of or number,
        message=order.message,
        who=context.who,
        now=now,
        stage=order.stage,
    )
    completion.publish_and_record(context, signing, staged, document)
    return document


def newest_manifest(context: Context, signing: Signing) -> tuple[Document, Manifest] | None:
    """The newest release of root's own record whose manifest is there as it was signed, and that manifest."""
    for document in own_record.entries(context):
        place = context.paths.releases / str(document["release"]) / MANIFEST
        try:
            signature = read_limited(place.with_name(MANIFEST + ARMOURED), LONGEST_SIGNATURE)
            text = read_limited(place, LARGEST)
        except (PenguinDomeError, OSError):
            continue
        for certificate in signing.certificates:
            try:
                return document, Manifest.load(text, signature, certificate)
            except PenguinDomeError:
                continue
    return None


def _outlook(
    prepared: Prepared,
    previous: tuple[Document, Manifest] | None,
    warnings: list[str],
    finished: int | None,
    origin: str,
) -> Outlook:
    old, held = previous or ({}, None)
    found = changes(
        held.files if held else None,
        prepared.files,
        (naming.base_of(old["version"]) if old else None, prepared.stamp.base),
    )
    version = naming.version(prepared.stamp.number, prepared.stamp.base)
    return Outlook(prepared.stamp.number, version, old.get("release"), found, finished, origin, warnings)
