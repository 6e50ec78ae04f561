"""The site's repository as people use it on a client: `apt update && apt install penguindome-client`, with what the
client put in place, from a server with a certificate of its own making that asks for credentials.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import Packages
from penguindome import json
from penguindome.bundle import Bundle
from penguindome.client.apt_sources import CREDENTIALS, FILES, PLACE
from penguindome.client.context import Client
from penguindome.client.installation import set_up
from penguindome.openpgp import DeviceKey
from penguindome.paths import Paths
from penguindome.times import utc_now
from release_packages import Made
from roots import CHECKOUT, Root, fresh_root

pytestmark = pytest.mark.timeout(600)

URL = "https://penguindome.example.org:8443"
PASSWORD = "correct-horse"
SERVER = """
import base64, functools, http.server, ssl
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def send_head(self):
        given = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        if given == open("/srv/credentials").read():
            return super().send_head()
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="PenguinDome"')
        self.send_header("Content-Length", "0")
        self.end_headers()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/srv/server.crt", "/srv/server.key")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), functools.partial(Handler, directory="/srv/site"))
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
SERVED = """
python3 /srv/server.py 2>/srv/log & server=$!
trap 'kill $server' EXIT
for wait in $(seq 100); do (: </dev/tcp/127.0.0.1/8443) 2>/dev/null && break; sleep 0.1; done
"""
INDEX = """
cd /srv/site/{place}
apt-ftparchive packages pool > dists/stable/main/binary-amd64/Packages
apt-ftparchive -o APT::FTPArchive::Release::Suite=stable -o APT::FTPArchive::Release::Components=main \\
    -o APT::FTPArchive::Release::Architectures=amd64 release dists/stable > /srv/Release
mv /srv/Release dists/stable/Release
"""


@pytest.fixture(params=["debian12-ready", "debian13-ready"], ids=["12", "13"])
def laptop(request: pytest.FixtureRequest, packages: Packages, tmp_path: Path) -> Iterator[Root]:
    """A client of a base package that is enrolled, as its files say, and a server beside it on the same machine."""
    key = DeviceKey.generate("server")
    with fresh_root(request.param) as root:
        root.apt("install", str(packages.client))
        certificate = tmp_path / "server.crt"
        serve(root, tmp_path)
        client = Client(Paths(root.path))
        made = set_up(client, bundle(key, URL, certificate.read_text()), force=False)
        credentials = {"user": made.client_id, "password": PASSWORD}
        root.write("/var/lib/penguindome/client/repository.json", json.dumps(credentials), mode=0o600)
        root.write("/srv/credentials", f"{made.client_id}:{PASSWORD}")
        publish(root, Made(2).deb(packages.client, tmp_path, key), key)
        root.run("penguindome-client", "repository")
        yield root


def serve(root: Root, tmp_path: Path) -> None:
    """Put a server with a certificate of its own making onto a machine; `server.crt` in `tmp_path` is that."""
    root.write("/etc/hosts", "127.0.0.1 localhost penguindome.example.org\n")
    certificate = tmp_path / "server.crt"
    words = "req -x509 -newkey ed25519 -nodes -subj /CN=penguindome -addext subjectAltName=DNS:penguindome.example.org"
    root.write("/srv/server.py", SERVER)
    command = ["openssl", *words.split(), "-keyout", root.at("/srv/server.key"), "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copyfile(certificate, root.at("/srv/server.crt"))


def bundle(key: DeviceKey, url: str, authorities: str) -> Bundle:
    return Bundle(
        server_url=url, server_certificate=key.certificate.text, ca_certificate=authorities, enrolment_key=None,
        token="x" * 40, created_at=utc_now(),
    )  # fmt: skip


def publish(root: Root, package: Path, key: DeviceKey) -> None:
    """A repository of one package, signed."""
    site = root.at(f"/srv/site/{PLACE}")
    (site / "dists/stable/main/binary-amd64").mkdir(parents=True)
    (site / "pool").mkdir()
    shutil.copyfile(package, site / "pool" / package.name)
    root.shell(INDEX.format(place=PLACE))
    sign(root, key)


def sign(root: Root, key: DeviceKey) -> None:
    release = root.at(f"/srv/site/{PLACE}/dists/stable/Release")
    release.with_name("Release.gpg").write_bytes(key.sign(release.read_bytes()))


def test_apt_installs_the_client_from_the_sites_repository(laptop: Root) -> None:
    said = laptop.shell(f"{SERVED}\napt-get update --error-on=any && apt-get install --yes penguindome-client").output
    assert "https://penguindome.example.org:8443" in said
    version = laptop.run("dpkg-query", "-Wf", "${Version}", "penguindome-client").stdout
    assert version == "1:2+0.1.0"


def test_the_credentials_are_for_root_alone_and_are_what_opens_the_repository(laptop: Root) -> None:
    assert laptop.run("stat", "--format=%a %U", f"/{CREDENTIALS}").stdout == "600 root\n"
    others = [f"/{name}" for name in FILES if name != CREDENTIALS]
    assert set(laptop.run("stat", "--format=%a", *others).stdout.split()) == {"644"}
    laptop.write("/srv/credentials", "somebody:else")
    refused = laptop.shell(f"{SERVED}\napt-get update --error-on=any", check=False)
    assert refused.status != 0
    assert "401" in refused.output
    assert PASSWORD not in refused.output


def test_what_another_key_signed_is_refused(laptop: Root) -> None:
    sign(laptop, DeviceKey.generate("other"))
    refused = laptop.shell(f"{SERVED}\napt-get update --error-on=any", check=False)
    assert refused.status != 0
    candidate = laptop.run("apt-cache", "policy", "penguindome-client").stdout
    assert "1:2+0.1.0" not in candidate


def test_purging_the_client_takes_it_out_of_apt_again(laptop: Root) -> None:
    there = laptop.run("find", "/etc/apt", "-name", "*penguindome*").stdout.split()
    assert sorted(there) == sorted(f"/{name}" for name in FILES)
    laptop.apt("purge", "penguindome-client")
    assert laptop.run("find", "/etc/apt", "/var/cache", "-name", "*penguindome*").stdout == ""


@pytest.fixture
def newcomer(packages: Packages, tmp_path: Path) -> Iterator[Root]:
    """A machine that is no client yet, with what the README has an administrator copy to it; and an open server."""
    key = DeviceKey.generate("server")
    with fresh_root("debian12-ready") as root:
        serve(root, tmp_path)
        root.write("/srv/credentials", "")
        publish(root, Made(2).deb(packages.client, tmp_path, key), key)
        authority = (tmp_path / "server.crt").read_text()
        root.write("/root/penguindome.asc", key.certificate.text)
        root.write("/root/penguindome-tls.pem", authority)
        root.write("/root/laptops.bundle", bundle(key, URL, authority).to_text(), mode=0o600)
        yield root


def test_a_new_machine_installs_the_client_as_the_readme_says(newcomer: Root) -> None:
    readme = (CHECKOUT / "README.md").read_text()
    files = re.findall(r"^```text\n# (/etc/apt/\S+?),?(?: [^\n]*)?\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(files) == 2
    for name, text in files:
        newcomer.write(name, text)
    typed = re.findall(r"^debian# (.*)$", readme, re.MULTILINE)
    assert typed
    newcomer.shell("\n".join([SERVED, "cd /root", *(f"{words} <<< y" for words in typed)]))
    assert newcomer.run("dpkg-query", "-Wf", "${Version}", "penguindome-client").stdout == "1:2+0.1.0"
    assert f"server:        {URL}" in newcomer.run("penguindome-client", "status").output
