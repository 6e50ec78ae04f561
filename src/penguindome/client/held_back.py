"""Signed actions that wait, because by this machine's clock they have expired, or because it has another host name than
they say: either may be right again tomorrow, so that nothing is final about them.

They are remembered for people to see, here and in the reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penguindome.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Collection

    from penguindome.client.context import Client

MOST = 20

log = get_logger(__name__)


def hold(client: Client, action_id: str, why: str) -> None:
    """Remember that an action waits, and say so once."""
    held = client.state.actions_held_back
    if held.get(action_id) == why or (action_id not in held and len(held) >= MOST):
        return
    log.warning("the action {} waits: {}", action_id, why)
    held[action_id] = why
    client.state.collect_requested = True


def keep_only(client: Client, action_ids: Collection[str]) -> None:
    """Forget all others: they wait no more."""
    held = client.state.actions_held_back
    for action_id in set(held) - set(action_ids):
        del held[action_id]
        client.state.collect_requested = True
