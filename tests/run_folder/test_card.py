from __future__ import annotations

from pathlib import Path

from preftree.run_folder.card import model_card
from support.small_runs import dpo_config, make_pairs


def test_the_card_says_what_and_how(tmp_path: Path) -> None:
    make_pairs(tmp_path / "pairs.jsonl")
    config = dpo_config(tmp_path, "run", "model=owner/model", "beta=.3")
    card = model_card(
        config,
        {"steps": 5, "held_out": {"accuracy": 0.625}, "trajectory": {"training data": "ab12", "lr": 1.0}, "config": {}},
    )
    assert "base_model: owner/model" in card
    assert "| held out: accuracy | 0.625 |" in card
    assert "| training data | ab12 |" in card
    assert "beta: 0.3" in card
    assert "| lr" not in card
