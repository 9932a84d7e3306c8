"""The recipes by name: which options belong to which verb."""

from __future__ import annotations

from typing import TypeAlias

from preftree.config.base import RunConfig
from preftree.config.dpo import DpoConfig
from preftree.config.online import PpoConfig, RlooConfig
from preftree.config.reward import RewardConfig
from preftree.config.sft import SftConfig

AnyConfig: TypeAlias = RunConfig | PpoConfig | RlooConfig
"""Options of any run."""

RECIPES: dict[str, type[RunConfig] | type[PpoConfig] | type[RlooConfig]] = {
    kind.recipe: kind for kind in (SftConfig, DpoConfig, RewardConfig, PpoConfig, RlooConfig)
}
