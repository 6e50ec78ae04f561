"""What the audit says of the server's own TLS certificates before they expire."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from needs import require_program
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.times import utc_now
from penguindome_server import certificates
from penguindome_server.settings import load_server_settings
from penguindome_tools.cli import main

DAY = timedelta(days=1)
AUTHORITY = """\
[ca]
default_ca = own
[own]
database = {directory}/index
new_certs_dir = {directory}
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
"""


@pytest.fixture
def site(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv(ROOT_VARIABLE, str(paths.root))
    paths.server_state.mkdir(parents=True)
    paths.settings.mkdir(parents=True, exist_ok=True)
    return paths


def made(path: Path, begins: datetime, ends: datetime) -> Path:
    """A self-signed certificate that is good from a time to another."""
    require_program("openssl")
    directory = path.with_suffix(".made")
    directory.mkdir()
    key, request, settings = (directory / name for name in ("key", "request", "settings"))
    settings.write_text(AUTHORITY.format(directory=directory))
    (directory / "index").touch()
    new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"]
    sign = ["ca", "-batch", "-config", settings, "-selfsign", "-notext", "-keyfile", key, "-in", request, "-out", path]
    times = ["-startdate", f"{begins:%Y%m%d%H%M%SZ}", "-enddate", f"{ends:%Y%m%d%H%M%SZ}"]
    for words in ([*new, "-keyout", key, "-out", request], [*sign, *times]):
        subprocess.run(["openssl", *words], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return path


def audited(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What is past its grace."""
    main(["issues", "audit", "--json"])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["past_grace"]
    return found


@pytest.mark.parametrize(
    ("whole", "left", "opens"),
    [(825, 140, False), (825, 135, True), (90, 20, False), (90, 14, True), (825, -1, True)],
)
def test_a_certificate_is_told_of_when_a_sixth_of_its_life_is_left(
    site: Paths, whole: int, left: int, opens: bool
) -> None:
    now = utc_now()
    path = made(site.root / "site.crt", now + (left - whole) * DAY, now + left * DAY)
    (site.settings / "server.yml").write_text(f"tls.certificate: {path}\ntls.key: {path.with_suffix('.made')}/key\n")
    found = certificates.expiring(load_server_settings(site), now=now)
    assert [thing.name for thing in found.things] == ([str(path)] if opens else [])
    assert found.broken == []


def test_a_certificate_about_to_expire_is_an_issue_of_the_server_until_another_is_shown(
    site: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    now = utc_now()
    path = made(site.root / "second.crt", now - 800 * DAY, now + 25 * DAY)
    # Not only that of the first port.
    (site.settings / "server.yml").write_text(f"ports: {{9443: {{certificate: {path}}}}}\n")
    (issue,) = audited(capsys)
    assert (issue["issue"], issue["client_id"]) == ("certificate-expiring", "server")
    for command in ("penguindome certificate renew", "penguindome release create", "penguindome certificate use"):
        assert command in issue["remedy"]
    assert [found["issue"] for found in audited(capsys)] == ["certificate-expiring"]
    shutil.copy(made(site.root / "third.crt", now, now + 825 * DAY), path)
    assert audited(capsys) == []


def test_a_certificate_that_cannot_be_read_is_the_same_issue(site: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    (site.root / "none.crt").write_text("nothing\n")
    (site.settings / "server.yml").write_text(f"ports: {{9443: {{certificate: {site.root}/none.crt}}}}\n")
    assert [found["issue"] for found in audited(capsys)] == ["certificate-expiring"]
