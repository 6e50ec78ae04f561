"""What the views of one process share: the services, and what is made of them once."""

from __future__ import annotations

from dataclasses import dataclass

from penguindome_server import reports, untrusted
from penguindome_server.addresses import Peers
from penguindome_server.client_secrets import ClientSecrets
from penguindome_server.deliveries import OpenDeliveries
from penguindome_server.endpoint_access import EndpointAccess
from penguindome_server.enrolment_requests import Policy
from penguindome_server.health import Health
from penguindome_server.identities import Identities
from penguindome_server.metrics import Metrics
from penguindome_server.password_checks import PasswordChecks
from penguindome_server.polls import Polls
from penguindome_server.ports import deprecated_numbers
from penguindome_server.publication import Publications
from penguindome_server.release_files import ReleaseFiles
from penguindome_server.rollout import Rollout
from penguindome_server.services import Services
from penguindome_server.updates import Sources


@dataclass(frozen=True)
class Web:
    """The surroundings of a request."""

    services: Services
    limits: untrusted.Limits
    report_limits: reports.Limits
    body_bytes: int
    report_bytes: int
    policy: Policy
    peers: Peers
    identities: Identities
    polls: Polls
    updates: Sources
    health: Health
    metrics: Metrics
    metrics_access: EndpointAccess
    download_access: EndpointAccess
    publications: Publications
    release_files: ReleaseFiles
    rollout: Rollout
    deprecated_ports: frozenset[int]

    @classmethod
    def of(cls, services: Services) -> Web:
        """Make what the views share, once per process."""
        settings, store = services.settings, services.store
        passwords, rollout = PasswordChecks(), Rollout(store)
        return cls(
            services=services,
            limits=untrusted.Limits(
                depth=settings["limits.depth"],
                keys=settings["limits.keys"],
                key_length=settings["limits.key_length"],
            ),
            report_limits=reports.Limits(trail_bytes_per_day=settings["limits.trail_bytes_per_day"]),
            body_bytes=settings["limits.body_bytes"],
            report_bytes=settings["limits.report_bytes"],
            policy=Policy.of(settings),
            peers=Peers(settings["trusted_proxies"]),
            identities=Identities(store),
            polls=Polls(store),
            updates=Sources(
                store=store,
                manifest=services.manifest,
                releases=services.releases,
                rollout=rollout,
                open_deliveries=OpenDeliveries(store),
                server_key=services.server_key,
            ),
            health=Health(store),
            metrics=Metrics(store),
            metrics_access=EndpointAccess(settings, "metrics", mandatory=True, passwords=passwords),
            download_access=EndpointAccess(
                settings,
                "server_auth.download_release",
                mandatory=False,
                passwords=passwords,
                clients=ClientSecrets(store),
            ),
            publications=Publications(services.paths.repository),
            release_files=ReleaseFiles(services.paths.releases),
            rollout=rollout,
            deprecated_ports=deprecated_numbers(settings),
        )
