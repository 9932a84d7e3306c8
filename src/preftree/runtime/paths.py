"""Folders outside a run: where tokenised data and reference tables are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Where reference log-probs are kept unless a caller says otherwise: $PREFTREE_CACHE, or ~/.cache/preftree."""
    chosen = os.environ.get("PREFTREE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "preftree"
