"""`python -m penguindome.client`."""

from __future__ import annotations

import sys

from penguindome.client.cli import main

sys.exit(main())
