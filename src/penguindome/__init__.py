"""What client, server and plugins share. Imports nothing of the server or of the command line.

`from penguindome import cached_data, var_dir` is for plugins (see `penguindome.cache`); importing the package costs
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penguindome.cache import cached_data as cached_data

    var_dir: str


def __getattr__(name: str) -> Any:
    if name in ("cached_data", "var_dir"):
        from penguindome import cache

        return getattr(cache, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
