"""The recipes by name: which options belong to which verb."""

from __future__ import annotations

from typing import TypeAlias

from preftree.config.online import PpoConfig, RlooConfig
from preftree.config.reward import RewardConfig
from preftree.config.schema import DpoConfig, RunConfig, SftConfig

AnyConfig: TypeAlias = RunConfig | PpoConfig | RlooConfig
"""Options of any run."""

RECIPES: dict[str, type[RunConfig] | type[PpoConfig] | type[RlooConfig]] = {
    kind.recipe: kind for kind in (SftConfig, DpoConfig, RewardConfig, PpoConfig, RlooConfig)
}
