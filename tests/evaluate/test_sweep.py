from __future__ import annotations

import pytest

from preftree.config.dpo import DpoConfig
from preftree.errors import ConfigError
from preftree.evaluate.sweep import plan_sweep

BASE = ("model=m", "data=d.jsonl", "out=sweeps/a")


def test_every_combination_becomes_a_run() -> None:
    out, variants = plan_sweep(DpoConfig, ["beta=.05,0.10", "seed=0,1", "loss.label_smoothing=.1", "loss=cdpo", *BASE])
    assert out == "sweeps/a"
    names = [variant.name for variant in variants]
    assert names == ["beta0.05-seed0", "beta0.05-seed1", "beta0.1-seed0", "beta0.1-seed1"]
    assert [(v.config.beta, v.config.seed, v.config.out) for v in variants][2] == (0.1, 0, "sweeps/a/beta0.1-seed0")
    assert all(v.config.loss.name == "cdpo" and v.config.loss.options == {"label_smoothing": 0.1} for v in variants)
    assert variants[1].values == {"beta": "0.05", "seed": "1"}
    assert {v.config.snapshots for v in variants} == {2}


def test_words_and_inner_options_are_varied_too() -> None:
    _, variants = plan_sweep(DpoConfig, ["loss=dpo,ipo_sum", "snapshots=null", *BASE])
    assert [variant.config.loss.name for variant in variants] == ["dpo", "ipo_sum"]
    assert [variant.name for variant in variants] == ["lossdpo", "lossipo_sum"]
    assert variants[0].config.snapshots == 2
    _, variants = plan_sweep(DpoConfig, ["seed=20240101,20240102", "snapshots=1.5", *BASE])
    assert [variant.name for variant in variants] == ["seed20240101", "seed20240102"]
    assert variants[0].config.snapshots == 1.5
    _, variants = plan_sweep(DpoConfig, ["loss=cdpo", "loss.label_smoothing=.1,.2", *BASE])
    assert [variant.config.loss.options["label_smoothing"] for variant in variants] == [0.1, 0.2]


def test_a_comma_in_quotes_separates_nothing() -> None:
    _, (variant, _) = plan_sweep(DpoConfig, ["model=m", 'data="a,b.jsonl"', "out=o", "seed=0,1"])
    assert variant.config.data.path == "a,b.jsonl"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a sweep needs an option with several values"),
        (["beta=.1,0.10"], "gives 0.10 twice"),
        (["beta=,"], "needs two values or more"),
        (["beta=.1,.2", "beta=.3,.4"], "option 'beta' is given twice"),
        (["beta=.1,-1"], "beta must be > 0, got -1"),
        (["betta=.1,.2"], "did you mean 'beta'"),
        (["out=a,b"], "out is the folder of the whole sweep"),
    ],
)
def test_what_makes_no_sweep_is_said_before_the_first_run(words: list[str], said: str) -> None:
    base = BASE[:2] if any(word.startswith("out") for word in words) else BASE
    with pytest.raises(ConfigError, match=said):
        plan_sweep(DpoConfig, [*words, *base])
