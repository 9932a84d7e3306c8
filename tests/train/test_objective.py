"""One loss or a sum of them, with or without a reference: from the options to the rows of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.config.base import RunConfig
from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config, load_config
from preftree.config.recipes import RECIPES
from preftree.errors import ConfigError
from preftree.evaluate.checks.all_checks import examine_run
from preftree.losses import LossSpec, PairSums, PairValues
from preftree.losses.options import Beta
from preftree.losses.registry import LOSSES
from preftree.report.page import write_report
from preftree.run_folder.reader import read_run
from preftree.train.dpo import build_reference_table, run_dpo
from preftree.train.objective import bind_objective, objective_of
from support.small_runs import dpo_config, make_model, make_pairs, rows_of


def bare(policy: PairSums, *, beta: Beta = 2.0) -> Tensor:
    """A loss that compares with nothing."""
    return -logsigmoid(beta * (policy.chosen / policy.chosen_tokens - policy.rejected / policy.rejected_tokens))


def bare_reward(policy: PairSums, *, beta: float, **_: object) -> PairValues:
    return PairValues(
        beta * policy.chosen.detach() / policy.chosen_tokens, beta * policy.rejected.detach() / policy.rejected_tokens
    )


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.reads != "prompts"])
def test_every_recipe_on_examples_has_the_objective_of_what_it_reads(name: str) -> None:
    recipe = RECIPES[name]
    config = check_config(recipe.config, {"model": "m", "data": "d.jsonl", "out": "o"})
    assert isinstance(config, RunConfig)
    found = objective_of(config)
    assert (found is None) == (recipe.reads == "demonstrations")
    assert found is None or found.lead.spec.is_of_rewards == (recipe.trains == "reward_model")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 16)
    monkeypatch.setitem(LOSSES, "bare", LossSpec(bare, None, bare_reward))
    return tmp_path


def bound(*words: str) -> DpoConfig:
    return load_config(DpoConfig, ["model=m", "data=d", "out=o", *words])


def test_the_resolved_options_say_what_is_used() -> None:
    config, objective = bind_objective(bound("loss={dpo: 1, sft: .2}", "beta=.3"))
    assert (config.beta, config.reference, objective.label) == (0.3, "start", "1 dpo + 0.2 sft")
    assert objective.identity == {"loss": "1 dpo + 0.2 sft", "dpo.beta": 0.3}
    assert bind_objective(bound("loss={dpo: 1, ipo: .2}"))[0].beta is None
    assert bind_objective(config)[0] == config


def test_the_weight_of_an_objective_is_no_weight_of_a_sum() -> None:
    _, objective = bind_objective(bound("loss=[{name: modpo, weight: 2, objective_weight: .3}, {name: sft}]"))
    assert (objective.label, objective.lead.options["objective_weight"]) == ("2 modpo + 1 sft", 0.3)
    with pytest.raises(ConfigError, match="loss 'modpo' does not take 'weight'"):
        bind_objective(bound("loss=modpo", "loss.weight=.3"))


def test_no_loss_has_an_option_that_a_sum_would_take_for_its_weight() -> None:
    assert not [name for name, spec in LOSSES.items() if {"name", "weight"} & spec.options.keys()]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["loss=sft"], "loss 'sft' alone has nothing to prefer; use `preftree sft` with side=chosen, or mix it"),
        (["loss={dpo: 1, ipo: 1}", "beta=.1"], "beta=0.1 may mean that of dpo or of ipo; set loss.dpo.beta and"),
        (["loss={dpo: 1, dpoo: 1}"], "loss must be one of"),
        (["loss={dpo: 1, sft: 1}", "loss.sft.beta=1"], "loss 'sft' does not take 'beta'"),
        (["loss={dpo: 1, sigmoid: 1}"], "a sum of losses names each once, got 'dpo' twice"),
        (["reference=none"], "loss dpo needs a reference, got reference=none; give 'start' or the path"),
    ],
)
def test_what_cannot_be_minimised_is_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind_objective(bound(*words))
    assert str(caught.value).startswith(sentence)


def test_a_sum_of_losses_is_the_sum_of_its_columns(place: Path) -> None:
    words = ("max_steps=3", "eval_data=.2", "schedule=constant")
    run_dpo(dpo_config(place, "sum", "loss={dpo: 1.0, sft: 0.2}", "beta=.3", *words))
    for row in rows_of(place / "sum"):
        assert row["loss"] == pytest.approx(float(row["loss/dpo"]) + 0.2 * float(row["loss/sft"]), rel=1e-6)
        assert row["loss/sft"] == pytest.approx(-float(row["chosen_logps"]), rel=1e-6)
    # Another weight is another run.
    with pytest.raises(Exception, match=r"loss was 1 dpo \+ 0.2 sft, is 1 dpo \+ 0.5 sft"):
        run_dpo(dpo_config(place, "sum", "loss={dpo: 1.0, sft: 0.5}", "beta=.3", *words))
    plain = "max_steps=3", "eval_data=.2", "schedule=constant", "beta=.3"
    run_dpo(dpo_config(place, "plain", *plain))
    assert rows_of(place / "plain")[0]["loss"] == rows_of(place / "sum")[0]["loss/dpo"]
    write_report([place / "sum", place / "plain"], place / "page.html")
    assert "1 dpo + 0.2 sft" in (place / "page.html").read_text()


def test_a_loss_without_a_reference_computes_none(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    words = ("loss=bare", "max_steps=12", "eval_data=.2", "save_every=2", "schedule=constant")
    run_dpo(dpo_config(place, "free", *words))
    assert "loss bare uses no reference: none is computed" in caplog.text
    assert not (place / "cache" / "tables").exists()
    row = rows_of(place / "free")[0]
    assert not {"chosen_logratio", "rejected_logratio"} & row.keys()
    gap = float(row["chosen_rewards"]) - float(row["rejected_rewards"])
    assert row["margin"] == pytest.approx(gap) and row["accuracy"] is not None
    assert "weights of the reference" not in json.loads((place / "free" / "summary.json").read_text())["trajectory"]

    config, _ = bind_objective(load_config(DpoConfig, [str(place / "free" / "config.yaml")]))
    assert (config.reference, config.beta) == ("none", 2.0)
    run_dpo(dpo_config(place, "free", *words[:1], *words[2:], "reference=none", "max_steps=13"))
    with pytest.raises(ConfigError, match="loss bare uses no reference, got reference="):
        run_dpo(dpo_config(place, "other", *words, f"reference={place / 'model'}"))
    with pytest.raises(ConfigError, match="there is no table to build"):
        build_reference_table(dpo_config(place, "other", *words))
    examine_run(read_run(place / "free"))
    write_report([place / "free"], place / "page.html")
    assert "none" in (place / "page.html").read_text()
