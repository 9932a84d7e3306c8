"""What the data carries reaches the losses: labels, lists, ties and figures; what it lacks is a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.config.dpo import DpoConfig
from preftree.data.store.example import TokenExample
from preftree.data.store.mismatched import partners
from preftree.errors import ConfigError, DataError, UserError
from preftree.losses.registry import LOSSES
from preftree.models.load import load_model, load_tokenizer
from preftree.reference.build import build_reference
from preftree.reference.key import table_key
from preftree.reference.protocol import LiveReference, NoReference, Reference, TableReference
from preftree.reference.store import ReferenceTable
from preftree.runtime.ranks import Ranks
from preftree.scoring.scorer import Scorer
from preftree.train.dataset import PromptGroups, Subset, open_data
from preftree.train.dpo import run_dpo
from preftree.train.objective import bind_objective
from preftree.train.preference_task import PreferenceTask
from preftree.train.step.batch import Batch
from preftree.train.step.evaluation import measure
from preftree.train.step.inputs import make_inputs
from preftree.train.step.optimizer import build_optimizer
from preftree.train.step.scores import Moment
from preftree.train.step.update import take_step
from preftree.tree.layout import TokenSequence
from support.models import plain_logps
from support.small_runs import dpo_config, make_model, rows_of
from support.tasks import Changed

ALONE = Ranks(0, 1, torch.device("cpu"))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(index: int, **more: object) -> dict[str, Any]:
    side = "good " * (index % 3 + 1)
    return {"prompt": f"{index // 2}: was the plot", "chosen": f" very {side}", "rejected": " bad", **more}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("units")
    make_model(folder / "model")
    figures = [
        {
            "weight": [0.5, 1.0, 2.0][index % 3],
            "win_prob": 0.5 + 0.04 * index,
            "other_margin": 0.25 * index - 1,
            "score_chosen": 1.0 + index,
            "score_rejected": 0.5,
            "cost_chosen": 0.1 * index,
            "cost_rejected": 0.3,
        }
        for index in range(10)
    ]
    rows = [pair(index, **more) for index, more in enumerate(figures)]
    write(folder / "plain.jsonl", [pair(index) for index in range(10)])
    write(folder / "pairs.jsonl", [*rows, pair(20, tie=True), pair(22, tie=True)])
    texts, scores = [" great", " fine", " dull", " awful"], [4, 2, 1, 0]
    lists = [
        {"prompt": f"{i}: the movie", "responses": texts[: 2 + i % 3], "scores": scores[: 2 + i % 3]} for i in range(6)
    ]
    write(folder / "lists.jsonl", lists)
    labels = [{"prompt": f"{i % 4}: the plot", "completion": f" {i} good", "label": i % 3 == 0} for i in range(8)]
    write(folder / "labels.jsonl", labels)
    return folder


def open_part(config: DpoConfig) -> tuple[Subset, PreTrainedTokenizerBase]:
    tokenizer = load_tokenizer(config.model)
    return open_data(config, tokenizer, ALONE, bind_objective(config)[1]).train, tokenizer


def table_of(folder: Path, part: Subset) -> ReferenceTable:
    """Log-probs of another model than the policy, so that nothing is at its start."""
    make_model(folder / "other", seed=5)
    scorer = Scorer(load_model(str(folder / "other")))
    table = ReferenceTable.open(folder, table_key("other", scorer.numeric_mode))
    build_reference(table, scorer, PromptGroups(part), budget=4096)
    return table


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "sft"])
def test_every_loss_makes_the_same_step_however_it_is_cut(place: Path, tmp_path: Path, name: str) -> None:
    config, objective = bind_objective(dpo_config(place, "unused", f"loss={name}", f"cache={tmp_path}"))
    part, _ = open_part(config)
    reference: Reference = NoReference()
    if objective.needs_reference:
        reference = TableReference(table_of(tmp_path, part))
        other = Scorer(load_model(str(tmp_path / "other")))
        if "kl" in objective.inputs:
            reference = LiveReference(lambda: nullcontext(other))
    task = PreferenceTask(objective, reference)
    moment = Moment(3, 5, {**objective.state})
    found = []
    for budget in (4096, 40):
        model = load_model(config.model)
        scorer, optimizer = Scorer(model), build_optimizer(model, config)
        result = take_step(
            Batch(task, part.store, part.rows, moment),
            scorer,
            optimizer,
            budget=budget,
            max_grad_norm=1.0,
            ranks=ALONE,
        )
        figures = task.figures(result.columns, part.store, part.rows)
        assert result.grad_norm > 0 and math.isfinite(figures["loss"])
        assert result.state.keys() == objective.state.keys()
        measured = measure(task, part.store, part.rows, scorer, budget=budget, ranks=ALONE, moment=moment)
        assert measured is not None and measured.keys() == figures.keys()
        found.append((figures, result.grad_norm, dict(result.state)))
    assert found[1][0] == pytest.approx(found[0][0], rel=2e-5, abs=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-3)
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-4, abs=1e-6)


Found: TypeAlias = tuple[dict[str, Any], list[TokenExample], PreTrainedModel, Subset]


def scored_inputs(place: Path, tmp_path: Path, data: str, *names: str, loss: str) -> Found:
    """The inputs of a loss for all rows of a file, and the model they came from."""
    config, objective = bind_objective(
        dpo_config(place, "unused", f"loss={loss}", f"data={place / data}", f"cache={tmp_path}")
    )
    part, _ = open_part(config)
    reference = TableReference(table_of(tmp_path, part)) if objective.needs_reference else NoReference()
    kept: dict[str, Any] = {}
    task = PreferenceTask(objective, reference)

    def look(scores: Any, examples: Any) -> Any:
        kept.update(make_inputs(objective.kind, names, scores, examples))
        return task.loss(scores, examples)

    scorer = Scorer(load_model(config.model))
    moment = Moment(7, 2, objective.state)
    measure(Changed(task, loss=look), part.store, part.rows, scorer, budget=4096, ranks=ALONE, moment=moment)
    return kept, [part.store[int(row)] for row in part.rows], load_model(config.model), part


def sums(model: Any, sequences: Sequence[TokenSequence]) -> list[float]:
    return [float(plain_logps(model, sequence).detach()) for sequence in sequences]


def test_pairs_carry_what_the_rows_say(place: Path, tmp_path: Path) -> None:
    names = (
        "policy",
        "policy_tokens",
        "ref_tokens",
        "margins",
        "win_prob",
        "costs",
        "uniforms",
        "logps",
        "ties",
        "other_margins",
    )
    given, examples, model, _ = scored_inputs(place, tmp_path, "pairs.jsonl", *names, loss="sppo_soft")
    chosen, rejected = ([example.sequences[side] for example in examples] for side in (0, 1))
    assert given["policy"].chosen.tolist() == pytest.approx(sums(model, chosen), abs=1e-4)
    assert given["logps"].tolist() == given["policy"].chosen.tolist()
    tokens = given["policy_tokens"].rejected
    assert [float(part.sum()) for part in tokens.logps.split(tokens.num_tokens.tolist())] == pytest.approx(
        sums(model, rejected), abs=1e-4
    )
    assert given["margins"].tolist() == [0.5 + index for index in range(10)]
    assert given["win_prob"].tolist() == pytest.approx([0.5 + 0.04 * index for index in range(10)])
    assert given["other_margins"].tolist() == [0.25 * index - 1 for index in range(10)]
    assert given["costs"].chosen.tolist() == pytest.approx([0.1 * index for index in range(10)])
    assert given["costs"].rejected.tolist() == [0.3] * 10
    assert not given["ties"].any()
    drawn = given["uniforms"]
    assert ((drawn >= 0) & (drawn < 1)).all() and len(set(drawn.tolist())) == 10
    again = scored_inputs(place, tmp_path / "again", "pairs.jsonl", "uniforms", loss="dpo")[0]["uniforms"]
    assert again.tolist() == drawn.tolist()


def test_rows_without_a_probability_are_certain_to_soft_labels(place: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "some.jsonl", [pair(0), pair(1) | {"win_prob": 0.7}, pair(2) | {"tie": True}])
    words = ("loss=dpo_soft", f"data={data}", f"cache={tmp_path}")
    found, _ = open_part(bind_objective(dpo_config(place, "unused", *words))[0])
    examples = [found.store[int(row)] for row in found.rows]
    assert [example.figures.get("win_prob") for example in examples] == [None, (0.7,), None]
    given = scored_inputs(place, tmp_path, str(data), "win_prob", "ties", loss="dpo_soft")[0]
    assert given["win_prob"].tolist() == [1, 0.7, 1] and given["ties"].tolist() == [False, False, True]


def test_ties_reach_the_losses_that_take_them(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    given, examples, *_ = scored_inputs(place, tmp_path, "pairs.jsonl", "ties", loss="davidson")
    assert given["ties"].tolist() == [False] * 10 + [True] * 2 and len(examples) == 12
    assert "left out" not in caplog.text
    scored_inputs(place, tmp_path / "kto", "pairs.jsonl", "desirable", loss="kto")
    assert "left out 4 ties, which loss kto cannot use" in caplog.text


@pytest.mark.parametrize("data", ["plain.jsonl", "labels.jsonl"])
def test_labels_and_the_responses_they_are_compared_with(place: Path, tmp_path: Path, data: str) -> None:
    names = ("responses", "mismatched", "desirable", "ref_responses", "ref_mismatched")
    given, examples, model, part = scored_inputs(place, tmp_path, data, *names, loss="kto")
    assert len(examples) == (20 if data == "plain.jsonl" else 8)
    assert given["desirable"].tolist() == [
        index % 2 == 0 if data == "plain.jsonl" else index % 3 == 0 for index in range(len(examples))
    ]
    own = [example.sequences[0] for example in examples]
    assert given["responses"].values.tolist() == pytest.approx(sums(model, own), abs=1e-4)
    partner = partners(part.store.prompts[part.rows])
    swapped = []
    for example, other in zip(examples, partner.tolist(), strict=True):
        prompt = example.sequences[0].ids[~example.sequences[0].scored]
        response = own[other].ids[own[other].scored]
        assert prompt.tolist() != own[other].ids[~own[other].scored].tolist()
        ids = np.concatenate([prompt, response]).astype(np.int32)
        swapped.append(TokenSequence(ids, np.arange(len(ids)) >= len(prompt)))
    assert given["mismatched"].values.tolist() == pytest.approx(sums(model, swapped), abs=1e-4)
    assert not given["mismatched"].values.requires_grad
    assert given["ref_mismatched"].num_tokens.tolist() == [int(s.scored.sum()) for s in swapped]
    if data == "plain.jsonl":  # what is lent is as often liked as not
        assert [bool(given["desirable"][other]) for other in partner] == given["desirable"].tolist()


def test_a_borrowed_response_is_cut_to_the_longest_sequence(place: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a" * 20, "completion": "b" * 4, "label": True},
        {"prompt": "c" * 4, "completion": "d" * 20, "label": False},
    ]
    words = ("loss=kto", f"data={write(tmp_path / 'data.jsonl', rows)}", f"cache={tmp_path}")
    uncut, _ = open_part(bind_objective(dpo_config(place, "unused", *words))[0])
    most = max(len(uncut.store[row].sequences[0].ids) for row in (0, 1))
    part, _ = open_part(bind_objective(dpo_config(place, "unused", *words, f"max_length={most}"))[0])
    (long,), (cut,) = uncut.store[0].borrowed, part.store[0].borrowed
    assert len(long.ids) > most == len(cut.ids)
    assert cut.ids.tolist() == long.ids[:most].tolist() and cut.scored.tolist() == long.scored[:most].tolist()
    assert len(PromptGroups(part)) == 2 and sum(len(list(group)) for group in PromptGroups(part)) == 4


def test_lists_are_whole(place: Path, tmp_path: Path) -> None:
    names = ("policy_lists", "ref_lists", "list_scores", "logps")
    given, examples, model, _ = scored_inputs(place, tmp_path, "lists.jsonl", *names, loss="lipo")
    assert given["policy_lists"].sizes.tolist() == [2, 3, 4, 2, 3, 4]
    every = [sequence for example in examples for sequence in example.sequences]
    assert given["policy_lists"].values.tolist() == pytest.approx(sums(model, every), abs=1e-4)
    assert given["list_scores"].tolist() == [4, 2, 4, 2, 1, 4, 2, 1, 0] * 2
    first = [example.sequences[0] for example in examples]
    assert given["logps"].tolist() == pytest.approx(sums(model, first), abs=1e-4)
    given, examples, *_ = scored_inputs(place, tmp_path / "pairs", "pairs.jsonl", "policy_lists", loss="plackett_luce")
    assert given["policy_lists"].sizes.tolist() == [2] * 10


def test_a_list_loses_what_does_not_fit_or_repeats(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    row = {"prompt": "p", "responses": [" ab", " good plot", " x", " abc"], "scores": [3, 2, 1, 0]}
    data = write(tmp_path / "l.jsonl", [row, row | {"prompt": "q", "responses": [" much too long", " so is this"]}])
    words = ("loss=lipo", f"data={data}", f"cache={tmp_path}", "data.max_rejected=1.0", "max_response_length=4")
    dropped, _ = open_part(bind_objective(dpo_config(place, "unused", *words[:4], "max_response_length=5"))[0])
    assert [len(example.sequences) for example in (dropped.store[0],)] == [3] and dropped.store[0].figures[
        "scores"
    ] == (3, 1, 0)
    assert len(dropped.rows) == 1 and "dropped_response 1" in caplog.text
    row["responses"] = [" zzzzzzzz a", " zzzzzzzz b", " x", " y"]
    words = (words[0], f"data={write(tmp_path / 'm.jsonl', [row])}", *words[2:], "truncation=trim_response")
    cut, _ = open_part(bind_objective(dpo_config(place, "unused", *words))[0])
    assert len(cut.store[0].sequences) == 3 and cut.store[0].figures["scores"] == (3, 1, 0)


@pytest.mark.parametrize(
    ("loss", "row", "sentence"),
    [
        (
            "odpo",
            {},
            "loss odpo needs margin in every row, and .*bare.jsonl:1 has none, like 3 others; give 'margin', or",
        ),
        ("sppo_soft", {}, "loss sppo_soft needs win prob in every row, .* give 'win_prob', the probability"),
        ("constrained_dpo", {"cost_chosen": 1}, "loss constrained_dpo needs costs .* give 'cost_chosen' and"),
        ("lipo", {}, "loss lipo needs scores in every row, .* give 'scores'"),
        ("aot", {"weight": 0.123456}, "loss aot counts a weight as repetitions: weights must be multiples"),
        ("kto", {"prompt": "same"}, "response with one to another prompt, and the training rows have only one prompt"),
    ],
)
def test_what_the_data_lacks_is_a_sentence(
    place: Path, tmp_path: Path, loss: str, row: dict[str, Any], sentence: str
) -> None:
    data = write(tmp_path / "bare.jsonl", [pair(index) | row for index in range(4)])
    words = (f"loss={loss}", f"data={data}", f"cache={tmp_path}", "data.max_rejected=1.0")
    with pytest.raises(DataError, match=sentence):
        open_part(bind_objective(dpo_config(place, "unused", *words))[0])


NEEDS = {
    "margins": "margin",
    "other_margins": "other margin",
    "win_prob": "win prob",
    "costs": "costs",
    "list_scores": "scores",
}


def opened(place: Path, cache: Path, name: str, data: str) -> str:
    """What opening a file for a loss comes to: an empty sentence, or the error's."""
    words = (f"loss={name}", f"data={place / data}", f"cache={cache}")
    try:
        open_part(bind_objective(dpo_config(place, "unused", *words))[0])
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "sft"])
def test_every_loss_says_what_its_data_lacks(place: Path, tmp_path: Path, name: str) -> None:
    """Bare pairs, labels, demonstrations and rankings: taken, or refused in one sentence."""
    write(place / "demonstrations.jsonl", [{"prompt": f"{i}: p", "completion": " good"} for i in range(3)])
    spec, unit = LOSSES[name], LOSSES[name].kind
    lacking = [words for key, words in NEEDS.items() if key in spec.inputs and key not in spec.optional]
    told = {data: opened(place, tmp_path, name, f"{data}.jsonl") for data in ("plain", "labels", "lists")}
    told["demonstrations"] = opened(place, tmp_path, name, "demonstrations.jsonl")
    assert all("\n" not in sentence for sentence in told.values())
    assert f"wanted the kind '{unit}'" in told["demonstrations"]
    assert (f"wanted the kind '{unit}'" in told["labels"]) == (unit != "response")
    if unit == "response":
        assert not told["plain"] and not told["labels"] and "wanted the kind 'response'" in told["lists"]
        return
    needed = f"loss {name} needs {lacking[0]} in every row" if lacking else ""
    assert told["plain"].startswith(needed) and bool(told["plain"]) == bool(lacking)
    # Scores of a ranking are margins of its pairs; nothing else stands in it.
    known = not lacking or lacking[0] in ("margin", "scores")
    assert told["lists"].startswith("" if known else needed) and bool(told["lists"]) == (not known)


@pytest.mark.parametrize(
    ("words", "row", "sentence"),
    [
        (("loss=odpo",), {"margin": 0}, r"needs a margin > 0 in every row, and .*:1 has 0, like 3 others; label such"),
        (("loss=rao_kupper", "loss.nu=1"), {"tie": True}, "loss rao_kupper: a tie is impossible with nu = 1; set nu >"),
        (("loss=davidson", "loss.nu=0"), {"tie": True}, "loss davidson: a tie is impossible with nu = 0; set nu > 0"),
        (
            ("loss={dpo: 1, davidson: 1}",),
            {"tie": True},
            r"only ties, which loss 1 dpo \+ 1 davidson cannot use",
        ),
    ],
)
def test_what_a_loss_cannot_use_is_a_sentence(
    place: Path, tmp_path: Path, words: tuple[str, ...], row: dict[str, Any], sentence: str
) -> None:
    data = write(tmp_path / "bare.jsonl", [pair(index) | row for index in range(4)])
    with pytest.raises(UserError, match=sentence):
        open_part(bind_objective(dpo_config(place, "unused", *words, f"data={data}", f"cache={tmp_path}"))[0])


def test_a_sum_takes_ties_where_all_that_prefers_does(place: Path) -> None:
    config = dpo_config(place, "unused", "loss={davidson: 1, sft: .1}")
    assert bind_objective(config)[1].takes_ties


@pytest.mark.parametrize(
    ("loss", "data", "sentence"),
    [("modpo", "plain", "needs other margin in every row"), ("kto", "lists", "wanted the kind 'response'")],
)
def test_the_verbs_stop_with_the_sentence(place: Path, loss: str, data: str, sentence: str) -> None:
    """`preftree dpo`, and a sweep of which no run came to its end."""
    words = [f"model={place / 'model'}", f"data={place / data}.jsonl", f"cache={place / 'c'}", f"loss={loss}"]
    done = CliRunner().invoke(app, ["dpo", *words, f"out={place / 'x'}"])
    assert isinstance(done.exception, UserError) and sentence in str(done.exception)  # main() exits with 2
    swept = CliRunner().invoke(app, ["sweep", "dpo", *words, f"out={place / 'y'}", "loss.beta=1,2"])
    assert isinstance(swept.exception, UserError) and "no run of this sweep finished" in str(swept.exception)


def test_losses_of_two_kinds_are_no_sum() -> None:
    config = dpo_config(Path("x"), "o", "loss={dpo: 1, kto: 1}")
    with pytest.raises(ConfigError, match="same kind of example: dpo is of pairs, kto is of responses"):
        bind_objective(config)


@pytest.mark.parametrize("prompts", [[1, 2, 3], [1, 1, 2, 2, 1], [1, 2, 1], [4, 4, 4, 5], [1, 2, 2, 2, 1, 1]])
def test_a_partner_has_another_prompt(prompts: list[int]) -> None:
    found = partners(np.array(prompts))
    assert all(prompts[other] != prompts[index] for index, other in enumerate(found.tolist()))


@pytest.mark.parametrize(("loss", "data"), [("kto", "labels.jsonl"), ("bco", "pairs.jsonl"), ("lipo", "lists.jsonl")])
def test_whole_runs(place: Path, loss: str, data: str) -> None:
    words = (f"loss={loss}", f"data={place / data}", "eval_data=.5", "epochs=2", "lr=1e-2")
    run_dpo(dpo_config(place, f"run-{loss}", *words))
    rows = [row for row in rows_of(place / f"run-{loss}") if "split" not in row]
    unit = "lists" if loss == "lipo" else "responses"
    assert rows[-1][unit] and not {"accuracy_low"} & rows[-1].keys()
    assert rows[-1]["loss"] != rows[0]["loss"]
