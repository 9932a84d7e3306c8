"""Every option is described, in one place, and what is written for people is read back by the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from preftree.config.help import OptionHelp, commented_yaml, descriptions_of, groups_of, json_schema, models_in
from preftree.config.load import check_config, load_config
from preftree.config.recipes import RECIPES, Recipe
from preftree.losses.registry import LOSSES
from preftree.losses.reward_model import REWARD_LOSSES

NEEDED = {"model": "m", "data": "d", "out": "o"}
by_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def options_of(recipe: Recipe) -> dict[str, OptionHelp]:
    return {option.name: option for group in groups_of(recipe) for option in group.flat()}


def needed_by(recipe: Recipe) -> dict[str, str]:
    return NEEDED | ({"reward": "world:tiny"} if recipe.samples else {})


@by_recipe
def test_every_option_has_a_group_a_type_and_a_meaning(recipe: Recipe) -> None:
    options = options_of(recipe)
    assert {name for name in options if "." not in name} == set(recipe.config.model_fields)
    assert {"data.path", "lora.r", "lora.modules_to_save"} <= options.keys()
    for option in options.values():
        assert option.type, option.name
        assert len(option.meaning.split()) >= 1 and option.meaning.endswith((".", "].", ").")), option.name
    for group in groups_of(recipe):
        assert group.title


def test_inner_options_are_among_them() -> None:
    options = options_of(RECIPES["dpo"])
    inner = {"loss.name", "loss.OPTION", "reference.from", "reference.sync_every", "reference.mixup"}
    assert inner <= options.keys()
    assert options["loss"].default == "dpo" and options["lr"].default == "1e-6"
    assert options["model"].default is None and options["model"].takes_path
    assert options["optimizer"].choices == ("adamw", "rmsprop", "adamw_8bit")
    assert options["data.max_rejected"].type == "number >= 0, <= 1"


@by_recipe
def test_no_description_is_of_an_option_that_is_not_there(recipe: Recipe) -> None:
    kinds = [
        recipe.config,
        *(model for field in recipe.config.model_fields.values() for model in models_in(field.annotation)),
    ]
    for kind in kinds:
        described = {name for name in descriptions_of(kind) if not name.isupper()}
        assert described == set(kind.model_fields), kind


@by_recipe
def test_the_commented_file_is_the_defaults(recipe: Recipe, tmp_path: Path) -> None:
    text = commented_yaml(recipe)
    path = tmp_path / "run.yaml"
    path.write_text(text)
    words = [f"{name}={value}" for name, value in needed_by(recipe).items()]
    assert load_config(recipe.config, [str(path), *words]) == check_config(recipe.config, needed_by(recipe))
    for name, value in needed_by(recipe).items():
        key = "  path" if name == "data" else name
        assert f"\n{key}:  # required\n" in text
        text = text.replace(f"\n{key}:  # required\n", f"\n{key}: {value}\n")
    path.write_text(text)
    assert load_config(recipe.config, [str(path)]) == check_config(recipe.config, needed_by(recipe))
    assert max(map(len, text.splitlines())) <= 102


def test_what_is_commented_out_is_options_too() -> None:
    """The blocks of adapter and moving reference, without their comment signs."""
    text = commented_yaml(RECIPES["dpo"])
    lines = text[text.index("# lora:") :].partition("\n\n")[0].splitlines()
    block = yaml.safe_load("\n".join(line.removeprefix("# ").removeprefix("#") for line in lines))
    config = check_config(RECIPES["dpo"].config, NEEDED | block)
    assert config.lora is not None and config.lora.r is None
    lines = text[text.index("# reference:") :].partition("\n\n")[0].splitlines()
    block = yaml.safe_load("\n".join(line.removeprefix("# ").removeprefix("#") for line in lines))
    assert block == {"reference": {"from": "start", "sync_every": None, "mixup": 0.6}}


@by_recipe
def test_the_schema_describes_every_option(recipe: Recipe) -> None:
    schema = json_schema(recipe)
    for part in (schema, *schema["$defs"].values()):
        assert "Attributes" not in part["description"]
        for name, option in part["properties"].items():
            assert option.get("description"), name
    assert schema["properties"]["recipe"]["const"] == recipe.name
    assert set(schema["required"]) == set(needed_by(recipe))
    words: list[dict[str, Any]] = schema["properties"]["data"]["anyOf"]
    assert [part.get("type", part.get("$ref")) for part in words] == ["string", words[1]["$ref"]]


def test_loss_names_are_known_without_torch() -> None:
    from preftree.cli.options import loss_names

    assert set(loss_names(RECIPES["dpo"])) == set(LOSSES)
    assert set(loss_names(RECIPES["reward"])) == set(REWARD_LOSSES)
