"""A peer, and machines before and after their first minute with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from client_peer import Machine, Peer
from penguindome.paths import Paths


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A server that behaves until it is told otherwise."""
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def machine(paths: Paths, peer: Peer) -> Machine:
    """A machine with one signed plugin, not set up."""
    machine = Machine(paths, peer)
    machine.plugin("hello.sh", '#!/bin/sh\necho \'{"said": "hello"}\'\n')
    peer.publish(paths.client_code)
    return machine


@pytest.fixture
def ready(machine: Machine) -> Machine:
    """A machine that was set up, and never ran."""
    machine.set_up()
    return machine


@pytest.fixture
def enrolled(ready: Machine) -> Machine:
    """A machine after its first minute: one report was delivered."""
    ready.minute()
    ready.peer.requests.clear()
    return ready
