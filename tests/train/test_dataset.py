"""Which rows a run uses: the right file is named where there are none, and the gates get rows of a bounded length."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from preftree.data.store.token_store import TokenStore
from preftree.errors import CheckpointError, ConfigError, DataError
from preftree.models.load import load_tokenizer
from preftree.runtime.ranks import Ranks
from preftree.train.dataset import Subset, open_data, probe_rows
from preftree.train.dpo import run_dpo
from preftree.train.objective import bind_objective
from preftree.train.open_run import open_run
from preftree.train.run_examples import open_examples
from preftree.train.sft import run_sft
from support.small_runs import dpo_config, make_model, make_pairs, sft_config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 8)
    return folder


def test_held_out_ties_are_reported_with_their_own_file(place: Path) -> None:
    rows = [{"prompt": "a", "chosen": f" b{n}", "rejected": f" c{n}", "tie": True} for n in range(3)]
    (place / "ties.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"ties\.jsonl holds only ties, which loss dpo cannot use"):
        run_dpo(dpo_config(place, "ties", f"eval_data={place / 'ties.jsonl'}"))


def test_a_held_out_file_that_makes_no_pair_is_reported_as_such(place: Path) -> None:
    row = {"prompt": "a", "responses": ["b", "c"], "scores": [1.0, 1.0]}
    (place / "level.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"level\.jsonl: 1 of 1 rows rejected"):
        run_dpo(dpo_config(place, "level", "data.max_rejected=1.0", f"eval_data={place / 'level.jsonl'}"))


def test_a_format_that_is_named_holds_for_the_held_out_file(place: Path) -> None:
    (place / "ranking.jsonl").write_text(json.dumps({"prompt": "a", "responses": ["b", "c"]}) + "\n")
    words = ("data.format=explicit", f"eval_data={place / 'ranking.jsonl'}")
    with pytest.raises(DataError, match=r"ranking\.jsonl"):
        run_dpo(dpo_config(place, "format", *words))


def test_all_turns_are_for_imitation_alone(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.turns=all imitates every assistant turn, and dpo compares"):
        run_dpo(dpo_config(place, "turns", "data.turns=all"))


def test_the_pairs_of_a_ranking_share_the_weight_of_their_row(place: Path) -> None:
    """InstructGPT's loss: the mean over rankings of the mean over their pairs, here of 6 pairs and of 1."""
    rows: list[dict[str, object]] = [{"prompt": "a", "responses": [" good", " fine", " was", " bad"]}]
    rows.append({"prompt": "b", "responses": [" great", " dull"], "weight": 2})
    (place / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_dpo(dpo_config(place, "equal", f"data={place / 'rankings.jsonl'}", "batch_size=7", "max_steps=2"))
    words = (f"data={place / 'rankings.jsonl'}", "data.ranking_weight=row", "batch_size=7", "max_steps=2")
    config = dpo_config(place, "shared", *words)
    run_dpo(config)
    with open_run(config) as run:
        data = open_examples(run, bind_objective(config)[1])
    assert data.train.store.weights.tolist() == pytest.approx([1 / 6] * 6 + [2.0])
    assert data.train.store[0].weight == pytest.approx(1 / 6)
    alone = [
        json.loads((place / out / "metrics.jsonl").read_text().splitlines()[1])["loss"] for out in ("equal", "shared")
    ]
    assert alone[0] != pytest.approx(alone[1], abs=1e-4)
    with pytest.raises(CheckpointError, match=r"data\.ranking_weight"):
        run_dpo(dpo_config(place, "shared", *words[:1], *words[2:3], "max_steps=3"))


@pytest.mark.parametrize("words", [(), ("loss=kto",)])
def test_a_weight_of_rankings_needs_rankings(place: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.ranking_weight=row is of rankings under a loss of pairs, and .*leave it"
    ):
        run_dpo(dpo_config(place, "none", "data.ranking_weight=row", *words))


def test_all_turns_are_those_of_conversations(place: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.turns=all counts only with conversations, and .*pairs\.jsonl holds plain"
    ):
        run_sft(sft_config(place, "plain", "data.turns=all"))


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [([10, 3000, 5, 2048, 2049], [2, 0, 3, 1]), ([4000, 3000, 5000], [1, 2]), ([7, 6, 5, 4, 3, 2], [5, 3, 2, 0])],
)
def test_the_gates_get_rows_of_a_bounded_length_and_a_long_one(sizes: list[int], rows: list[int]) -> None:
    store = TokenStore.__new__(TokenStore)  # no file is needed for this
    store.num_tokens = np.array(sizes)
    assert probe_rows(Subset(store, np.arange(len(sizes)))) == rows


def test_a_digest_of_examples_changes_with_their_rows_and_with_what_they_borrow(place: Path) -> None:
    rows = [{"prompt": f"{n % 4}: the plot", "completion": f" {n} good", "label": n % 3 == 0} for n in range(8)]
    (place / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def part(*words: str) -> Subset:
        config, objective = bind_objective(dpo_config(place, "digests", f"data={place / 'labels.jsonl'}", *words))
        return open_data(config, load_tokenizer(config.model), Ranks(0, 1, torch.device("cpu")), objective).train

    borrowing, other_options, alone = part("loss=kto"), part("loss=kto", "beta=0.3", "seed=4"), part("loss=bco")
    assert borrowing.digest() == other_options.digest()
    digests = {
        borrowing.digest(),
        part("loss=kto", "max_length=64").digest(),
        alone.digest(),
        *(
            Subset(each.store, rows).digest()
            for each in (borrowing, alone)
            for rows in (each.rows[:-1], each.rows[::-1])
        ),
    }
    assert len(digests) == 7
