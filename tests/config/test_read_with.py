"""An option that a run does not read is refused, by the condition that stands beside its type."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftree.config.load import check_config, dump_config, load_config
from preftree.config.online import PUBLISHED
from preftree.config.recipes import RECIPES
from preftree.config.yaml import read_yaml
from preftree.errors import ConfigError

NEEDED = {"model": "m", "data": "d", "out": "o"}
ONLINE = NEEDED | {"reward": "world:tiny", "batch_size": 8}


@pytest.mark.parametrize(
    ("recipe", "options", "sentence"),
    [
        ("ppo", {"kl_horizon": 5.0}, "kl_horizon counts only with kl_target"),
        ("rloo", {"clip": 0.1}, "clip counts only with several updates an iteration: ppo_epochs above 1, or"),
        ("rloo", {"clip": 0.1, "minibatch_size": 8}, "clip counts only with several updates"),
        ("rloo", {"max_approx_kl": 0.1}, "max_approx_kl counts only with several updates"),
        ("rloo", {"clip_high": 0.1}, "clip_high counts only with several updates"),
        ("rloo", {"method": "gspo", "clip": 0.2}, "clip counts only with several updates"),
        ("rloo", {"method": "cispo", "clip": 0.1, "ppo_epochs": 2}, "clip counts only with another method than cispo"),
        ("ppo", {"ppo_epochs": 1, "clip_value": None}, "clip_value counts only with several updates"),
        ("ppo", {"ptx_coef": 2.0}, "ptx_coef counts only with ptx_data"),
        ("ppo", {"critic_start": "rm", "critic": "shared"}, "critic_start counts only with critic=separate"),
        ("dpo", {"truncation": "trim_prompt", "max_length": None}, "truncation counts only with a limit: max_length"),
    ],
)
def test_what_is_not_read_is_refused(recipe: str, options: dict[str, object], sentence: str) -> None:
    given = (NEEDED if recipe == "dpo" else ONLINE) | options
    with pytest.raises(ConfigError) as caught:
        check_config(RECIPES[recipe].config, given)
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith("; leave it out")


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("ppo", {"kl_horizon": 5.0, "kl_target": 1.0}),
        ("rloo", {"clip": 0.1, "ppo_epochs": 2}),
        ("rloo", {"max_approx_kl": 0.1, "minibatch_size": 4}),
        ("rloo", {"kl_horizon": 10000.0, "clip": 0.2}),  # their defaults
        ("ppo", {"ptx_coef": 2.0, "ptx_data": "p"}),
        ("ppo", {"critic_start": "rm"}),
        ("dpo", {"truncation": "trim_prompt", "max_length": None, "max_response_length": 9}),
    ],
)
def test_what_is_read_is_taken(recipe: str, options: dict[str, object]) -> None:
    check_config(RECIPES[recipe].config, (NEEDED if recipe == "dpo" else ONLINE) | options)


@pytest.mark.parametrize("method", PUBLISHED)
def test_the_options_of_every_method_read_back(method: str, tmp_path: Path) -> None:
    """The defaults of a method are no options that were given; those of the paper are taken."""
    kind = RECIPES["rloo"].config
    config = load_config(kind, [*(f"{name}={value}" for name, value in ONLINE.items()), f"method={method}"])
    assert check_config(kind, read_yaml(dump_config(config), "config.yaml")[0]) == config
    for name, value in PUBLISHED[method].items():
        assert getattr(config, name) == value
    assert config.model_dump()["kl_coef"] == {"rloo": 0.05, "grpo": 0.04}.get(method, 0)
