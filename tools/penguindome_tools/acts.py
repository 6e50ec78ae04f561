"""Administrative acts: which commands are acts, and what is told of each.

    @command.command()
    @click.argument("client")
    @pass_context
    @administrative("clients revoke")
    def revoke(context, *, client): ...
        context.acts_on(document["hostname"], client_id=document["_id"])

Every act is told, whether it succeeded or not: who, when, what, on whom, outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penguindome_tools.context import Context


def administrative(act: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark the function of a command (whose first argument is the Context) as the administrative act `act`."""

    def mark(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def acting(context: Context, *arguments: Any, **options: Any) -> None:
            with context.acting(act):
                function(context, *arguments, **options)

        return acting

    return mark
