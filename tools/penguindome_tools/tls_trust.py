"""Which certificates clients have to be told to trust for TLS, by enrolment bundles and by releases.

They are the self-signed certificates among those of all ports, the one that `penguindome certificate renew` made and
that is not in use yet, and those of `tls.authorities`. Servers whose certificate comes from an authority that every
system knows need none of it.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path

from penguindome.errors import PenguinDomeError, SettingsError, UsageError
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome_server.ports import ports_of
from penguindome_tools.answers import next_files


def for_bundles(settings: Settings, paths: Paths, *, ca_file: Path | None = None) -> str | None:
    """What a bundle carries (PEM), of which a machine trusts nothing else; None for the authorities of its system.

    `ca_file` names authorities beside those of `tls.authorities`. Raises UsageError when it holds none,
    SettingsError or PenguinDomeError.
    """
    given = [] if ca_file is None else _self_signed(ca_file)
    if ca_file is not None and not given:
        raise UsageError(f"{ca_file} holds no certificate of an authority")
    needed = [*_of_main_port(settings), *given, *_chosen(settings)]
    return _text([*needed, *_others(settings, paths)]) if needed else None


def for_releases(settings: Settings, paths: Paths) -> str:
    """What a release carries (PEM), which clients trust beside what they have; "" for nothing. Raises
    SettingsError or PenguinDomeError.
    """
    return _text([*_of_main_port(settings), *_chosen(settings), *_others(settings, paths)])


def _of_main_port(settings: Settings) -> list[bytes]:
    certificate = ports_of(settings)[0].certificate
    return [] if certificate is None else _self_signed(certificate)


def _chosen(settings: Settings) -> list[bytes]:
    authorities = settings["tls.authorities"]
    found = [] if authorities is None else _self_signed(authorities)
    if authorities is not None and not found:
        raise SettingsError(f"{settings.origin('tls.authorities')}: {authorities} holds no certificate of an authority")
    return found


def _others(settings: Settings, paths: Paths) -> Iterator[bytes]:
    """Those of other ports, and the one that is to be used next."""
    for port in ports_of(settings)[1:]:
        if port.certificate is not None:
            yield from _self_signed(port.certificate)
    following = next_files(paths)[0]
    if following.exists():
        yield from _self_signed(following)


def _self_signed(path: Path) -> list[bytes]:
    """The self-signed certificates in a PEM file, as DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        raise PenguinDomeError(f"{path} holds no certificate that can be read: {error}") from error
    decoded = context.get_ca_certs()
    binary = context.get_ca_certs(binary_form=True)
    return [der for fields, der in zip(decoded, binary, strict=True) if fields["subject"] == fields["issuer"]]


def _text(certificates: Iterable[bytes]) -> str:
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in dict.fromkeys(certificates))
