"""Cache folder of tokenised data and reference tables."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The default folder of caches: $PREFTREE_CACHE, or ~/.cache/preftree."""
    folder = os.environ.get("PREFTREE_CACHE")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "preftree"
