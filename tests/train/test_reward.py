"""`preftree reward`: from preferences to a folder whose rewards transformers gives too."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from preftree.config.load import load_config
from preftree.config.reward import RewardConfig
from preftree.errors import CheckpointError, ConfigError, DataError, ModelError
from preftree.evaluate.along_training import Measuring, measure_run
from preftree.evaluate.export import export_run
from preftree.evaluate.in_memory.after_training import run_recipe
from preftree.judges.functions import identify
from preftree.judges.rewards import load_rewards
from preftree.report.curves import learning_curves
from preftree.report.page import run_page
from preftree.run_folder.reader import read_run
from preftree.train.dpo import run_dpo
from preftree.train.step import supervised
from support.rewards import plain_ids, reward_config
from support.small_runs import dpo_config, make_model, make_pairs, rows_of

ROWS = [
    {"prompt": "0: the plot", "chosen": " was great good", "rejected": " was bad", "margin": 0.5},
    {"prompt": "0: the plot", "chosen": " was fine", "rejected": " dull", "margin": 0.25},
    {"prompt": "1: a movie", "chosen": " was fine", "rejected": " was bad", "tie": True},
    {"prompt": "2: a movie", "chosen": " good", "rejected": " bad", "margin": 1.0},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 40)
    (folder / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    ranked = [
        {"prompt": f"{n}: the", "responses": [" was great good", " was fine", f" was {n} bad"][: 2 + n % 2]}
        for n in range(6)
    ]
    (folder / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ranked))
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    words = ("epochs=5", "eval_data=.2", "eval_every=10", "schedule=linear")
    assert run_recipe(reward_config(place, "trained", *words)).signum == 0
    return place / "trained"


def test_it_learns_and_says_how_sure_it_is(trained: Path) -> None:
    rows = rows_of(trained)
    assert rows[0]["loss"] == math.log(2)
    assert (rows[0]["margin"], rows[0]["brier"], rows[0]["accuracy"]) == (0.0, 0.25, 0.5)
    last = rows[-1]
    assert last["split"] == "eval"
    assert last["accuracy"] > 0.8
    assert last["loss"] < 0.5
    assert {"accuracy_low", "accuracy_high", "calibration_error", "chosen_rewards", "rejected_rewards"} <= set(last)
    assert not [name for name in last if "logps" in name or "decided" in name]
    kept = json.loads((trained / "measured.json").read_text())["reliability"]
    assert sum(one["share"] for one in kept) == pytest.approx(1.0)
    error = sum(one["share"] * abs(one["confidence"] - one["right"]) for one in kept)
    assert error == pytest.approx(last["calibration_error"], abs=1e-9)


def test_a_fresh_process_gives_the_same_rewards(place: Path, trained: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()][:5]
    ours = load_rewards(f"rm:{trained}")([row["prompt"] for row in rows], [row["chosen"] for row in rows])
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    ids = [plain_ids(tokenizer, row["prompt"], row["chosen"]) for row in rows]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    code = (
        "import json, sys, torch\n"
        "from transformers import AutoModelForSequenceClassification as Model\n"
        f"model = Model.from_pretrained({str(trained / 'model')!r}, num_labels=1).eval()\n"
        f"rows = json.load(open({str(tmp_path / 'ids.json')!r}))\n"
        "with torch.no_grad():\n"
        "    print(json.dumps([float(model(input_ids=torch.tensor([ids])).logits[0, 0]) for ids in rows]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ours.std() > 0
    assert ours.tolist() == pytest.approx(json.loads(done.stdout), abs=1e-5)


def test_a_padding_token_of_its_own_reads_the_end(place: Path, tmp_path: Path) -> None:
    """With the EOS as padding, transformers would look at the token before it."""
    from transformers import AutoModelForSequenceClassification

    from support.models import tiny_llama
    from support.tokenizers import plain_tokenizer

    tokenizer = plain_tokenizer(bos=True)
    assert tokenizer.pad_token == tokenizer.eos_token
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 8)
    run_recipe(reward_config(tmp_path, "run"))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").eval()
    padding = AutoTokenizer.from_pretrained(tmp_path / "run" / "model").pad_token_id
    assert padding == model.config.pad_token_id == tokenizer.bos_token_id
    texts = [" was good", " was very bad, and dull"]
    ids = [[tokenizer.bos_token_id, *plain_ids(tokenizer, "the plot", text)] for text in texts]
    width = max(map(len, ids))
    rows = torch.tensor([own + [padding] * (width - len(own)) for own in ids])
    mask = torch.tensor([[1] * len(own) + [0] * (width - len(own)) for own in ids])
    with torch.no_grad():
        theirs = model(input_ids=rows, attention_mask=mask).logits[:, 0]
    ours = load_rewards(str(tmp_path / "run" / "model"))(["the plot"] * 2, texts)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-5)


def test_a_stopped_run_is_the_straight_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("max_steps=6", "eval_data=.2", "eval_every=2", "schedule=linear")
    run_recipe(reward_config(place, "straight", *words))
    real = supervised.take_step

    def take_step(*args: object, **options: object) -> object:
        if options["name"] == "step 3":
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(supervised, "take_step", take_step)
    assert run_recipe(reward_config(place, "stopped", *words)).signum == signal.SIGTERM
    monkeypatch.undo()
    # Another cut of the steps, too: the packing does not move the trajectory, but to rounding.
    assert run_recipe(reward_config(place, "stopped", *words)).signum == 0
    assert rows_of(place / "stopped") == rows_of(place / "straight")
    first, second = (load_file(place / out / "model" / "model.safetensors") for out in ("straight", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_random_head_is_the_seeds(place: Path) -> None:
    for seed in (0, 1):
        run_recipe(reward_config(place, f"head{seed}", "head=random", f"seed={seed}", "max_steps=1", "lr=1e-12"))
    heads = [load_file(place / f"head{n}" / "model" / "model.safetensors")["score.weight"] for n in (0, 1)]
    assert not torch.equal(heads[0], heads[1])
    assert all(0.5 < float(head.std()) * 65**0.5 < 1.5 for head in heads)
    assert rows_of(place / "head0")[0]["loss"] != math.log(2)


def test_packing_does_not_move_the_trajectory(place: Path) -> None:
    for tokens in (80, 4096):
        run_recipe(reward_config(place, f"packed{tokens}", "max_steps=4", f"micro_batch_tokens={tokens}"))
    first, second = (load_file(place / f"packed{n}" / "model" / "model.safetensors") for n in (80, 4096))
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4


def test_training_goes_on_from_a_reward_model(place: Path, trained: Path) -> None:
    words = (f"model={trained / 'model'}", "max_steps=1", "lr=1e-9")
    run_recipe(reward_config(place, "more", *words, "head=random"))
    assert rows_of(place / "more")[0]["loss"] < 0.5
    with pytest.raises(ConfigError, match=r"head counts only with a language model, and .*leave it out"):
        run_recipe(reward_config(place, "never", *words, "head=zero"))


@pytest.mark.parametrize("loss", ["rao_kupper", "davidson"])
def test_ties_are_pairs(place: Path, loss: str) -> None:
    run_recipe(reward_config(place, loss, f"data={place / 'odd.jsonl'}", f"loss={loss}", "loss.nu=2"))
    row = rows_of(place / loss)[0]
    assert row["pairs"] == 4
    assert row["ties"] == 0.25
    tie = {"rao_kupper": math.log(3), "davidson": math.log(3 / 2)}[loss]
    win = {"rao_kupper": math.log(3), "davidson": math.log(6)}[loss]
    assert row["loss"] == pytest.approx((3 * win + tie) / 4)
    assert row["brier"] == pytest.approx(0.25)


def test_margins_are_used_where_asked_for(place: Path) -> None:
    words = (f"data={place / 'odd.jsonl'}", "loss=bradley_terry_margin", "loss.margin_weight=2")
    run_recipe(reward_config(place, "margins", *words))
    expected = sum(math.log1p(math.exp(2 * margin)) for margin in (0.5, 0.25, 1.0)) / 3
    assert rows_of(place / "margins")[0]["loss"] == pytest.approx(expected)
    with pytest.raises(DataError, match=r"loss bradley_terry_margin needs margin in every row"):
        run_recipe(reward_config(place, "no-margins", "loss=bradley_terry_margin"))


def test_rankings_of_unlike_length(place: Path) -> None:
    words = (f"data={place / 'ranked.jsonl'}", "loss=plackett_luce", "batch_size=6", "eval_data=.4", "epochs=3")
    run_recipe(reward_config(place, "ranked", *words))
    first, last = rows_of(place / "ranked")[0], rows_of(place / "ranked")[-1]
    assert math.log(2) < first["loss"] < math.log(6)
    assert last["loss"] < first["loss"]
    assert {"pair_accuracy", "best_rewards", "worst_rewards", "accuracy_low"} <= set(last)


def test_rankings_make_pairs_for_bradley_terry(place: Path) -> None:
    run_recipe(reward_config(place, "all-pairs", f"data={place / 'ranked.jsonl'}"))
    assert rows_of(place / "all-pairs")[-1]["pairs"] == 3 * 1 + 3 * 3


def test_the_page_shows_the_run(trained: Path) -> None:
    run = read_run(trained)
    titles = [chart.title for chart in learning_curves(run)]
    assert {"Loss", "Accuracy", "Margin", "Rewards", "Brier score", "Calibration error", "Reliability"} <= set(titles)
    page = run_page([run])
    assert "made a reward model from the preferences of" in page
    assert "how sure it is" in page
    assert len(run_page([run, run])) > 1000
    with pytest.raises(DataError, match="is the run of a reward model, which writes nothing"):
        measure_run(run, Measuring("world:small"))
    with pytest.raises(DataError, match="is the run of a reward model, whose folder needs no export"):
        export_run(trained, trained / "out", "merged")


def test_a_reward_by_name_scores_each_response_alone_and_has_a_digest(trained: Path) -> None:
    spec = f"rm:{trained}"
    rewards = load_rewards(spec)
    both = rewards(["the plot", "a movie"], [" was good", " bad"]).tolist()
    assert [*rewards(["the plot"], [" was good"]), *rewards(["a movie"], [" bad"])] == pytest.approx(both, abs=1e-5)
    name, digest = identify(spec).split()
    assert (name, len(digest)) == (spec, 16)
    assert identify(str(trained / "model")).split()[1] == digest


def test_bad_input_is_one_sentence(place: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "the plot"}\n')
    with pytest.raises(DataError, match="wanted the kind 'pair'"):
        run_recipe(reward_config(place, "texts", f"data={tmp_path / 'texts.jsonl'}"))
    with pytest.raises(DataError, match="wanted the kind 'list'"):
        run_recipe(reward_config(place, "texts", f"data={tmp_path / 'texts.jsonl'}", "loss=plackett_luce"))
    with pytest.raises(ConfigError, match="the loss of a reward model must be one of"):
        run_recipe(reward_config(place, "odd-loss", "loss=dpo"))
    with pytest.raises(ConfigError, match="option 'beta' belongs to `preftree dpo`"):
        load_config(RewardConfig, ["model=m", "data=d", "out=o", "beta=.1"])
    with pytest.raises(ConfigError, match="a reward model is trained whole; leave lora out"):
        load_config(RewardConfig, ["model=m", "data=d", "out=o", "lora.r=8"])
    with pytest.raises(ModelError, match="is a reward model, wanted a causal language model"):
        run_dpo(dpo_config(place, "dpo", f"model={trained / 'model'}"))
    with pytest.raises(CheckpointError, match="loss was bradley_terry, is davidson"):
        run_recipe(reward_config(place, "trained", "epochs=5", "eval_data=.2", "schedule=linear", "loss=davidson"))


def test_a_tie_that_cannot_be_is_told_before_the_start(place: Path) -> None:
    words = (f"data={place / 'odd.jsonl'}", "loss=rao_kupper", "loss.nu=1")
    with pytest.raises(ConfigError, match="a tie is impossible with nu = 1"):
        run_recipe(reward_config(place, "no-ties", *words))
