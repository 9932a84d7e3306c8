"""A run's configuration names its recipe, and everything that depends on the recipe reads its row."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftree.config.load import check_config, dump_config, load_config
from preftree.config.recipes import RECIPES, Recipe
from preftree.errors import ConfigError, DataError
from preftree.run_folder.reader import read_run
from support.runs import dpo_rows, write_run

START = {"model": "m", "data": "d", "out": "o"}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_row_runs_what_it_names(recipe: Recipe) -> None:
    assert recipe.config.recipe == recipe.name
    assert callable(recipe.load())


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_configuration_that_was_written_is_read_back_by_its_own_verb_alone(recipe: Recipe, tmp_path: Path) -> None:
    config = check_config(recipe.config, START | ({"reward": "world:tiny"} if recipe.samples else {}))
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert path.read_text().startswith(f"recipe: {recipe.name}\n")
    assert load_config(recipe.config, [str(path)]) == config
    other = next(row for row in RECIPES.values() if row is not recipe)
    with pytest.raises(ConfigError, match=f"options of `preftree {recipe.name}`, not of `preftree {other.name}`"):
        load_config(other.config, [str(path)])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_an_unfinished_run_is_read_as_a_run_of_its_recipe(recipe: Recipe, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", dpo_rows(20))
    (folder / "summary.json").unlink()
    config = check_config(recipe.config, START | ({"reward": "world:tiny"} if recipe.samples else {}))
    (folder / "config.yaml").write_text(dump_config(config))
    assert read_run(folder).recipe is recipe


def test_a_run_of_a_recipe_that_is_not_here(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", dpo_rows(20))
    (folder / "config.yaml").write_text("recipe: online_dpo\nmodel: m\n")
    with pytest.raises(DataError, match="is a run of 'online_dpo'; this version has the recipes sft, dpo"):
        _ = read_run(folder).recipe
