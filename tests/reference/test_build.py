"""The reference pass: what it stores is right, and it runs exactly when something that matters has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preftree.errors import ConfigError, TrainingError
from preftree.reference import build as build_module
from preftree.reference.build import BuildReport, build_reference
from preftree.reference.store import ReferenceTable
from preftree.scoring.scorer import Scorer
from preftree.storage.lock import release_lock, take_lock
from preftree.tree.layout import TokenSequence
from support.models import plain_logps, tiny, tiny_llama
from support.tables import CountingScorer, build, some_pairs, table_of


@pytest.mark.parametrize(("name", "dtype"), [("llama", "float32"), ("gptj", "float32"), ("llama", "float64")])
def test_the_table_holds_what_the_model_says(tmp_path, name, dtype):
    """Against the model's own forward on each sequence alone; gptj takes padded rows."""
    model = tiny(name, dtype=getattr(torch, dtype))
    pairs = some_pairs(20)
    with torch.no_grad():
        expected = [float(plain_logps(model, sequence)) for pair in pairs for sequence in pair]
    table, report = build(tmp_path, CountingScorer(model), pairs, budget=300)
    flat = [sequence for pair in pairs for sequence in pair]
    values = table.gather(flat)
    assert values.dtype == dtype
    counts = [int(sequence.scored.sum()) for sequence in flat]
    sums = [part.astype(np.float64).sum() for part in np.split(values, np.cumsum(counts)[:-1])]
    assert np.abs(np.array(sums) - expected).max() < (1e-10 if dtype == "float64" else 1e-4)
    assert (report.num_scored, report.num_cached) == (40, 0)
    assert report.num_forwards > 1


def test_forwards_run_once_and_again_only_for_what_changed(tmp_path):
    model = tiny_llama()
    scorer = CountingScorer(model)
    pairs = some_pairs(30)
    _, first = build(tmp_path, scorer, pairs)
    assert scorer.forwards == first.num_forwards > 0
    assert scorer.responses == first.num_scored == 60

    scorer.forwards = scorer.responses = 0
    # Beta, learning rate and loss are no part of any of this; a seed or an epoch is another order of the same pairs.
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(pairs))
        table, report = build(tmp_path, scorer, [pairs[index] for index in order], budget=256 << seed)
        assert scorer.forwards == report.num_forwards == 0
        assert (report.num_scored, report.num_cached) == (0, 60)

    changed = [list(pair) for pair in pairs]
    ids = changed[7][1].ids.copy()
    ids[-1] = ids[-1] % 100 + 1
    changed[7][1] = TokenSequence(ids, changed[7][1].scored)  # one token
    table, report = build(tmp_path, scorer, changed)
    assert (scorer.forwards, scorer.responses, report.num_scored, report.num_cached) == (1, 1, 1, 59)
    assert not table.missing([sequence for pair in changed for sequence in pair]).any()

    scorer.forwards = scorer.responses = 0
    bf16 = CountingScorer(model, precision="bf16")
    build(tmp_path, bf16, pairs)  # the numeric mode
    assert bf16.responses == 60
    build(tmp_path, scorer, pairs)
    assert scorer.forwards == 0

    weight = model.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[2, 3] *= 1.01  # one weight
    build(tmp_path, scorer, pairs)
    assert scorer.responses == 60


def test_cached_values_do_not_depend_on_the_budget(tmp_path):
    scorer = Scorer(tiny_llama())
    pairs = some_pairs(30)
    flat = [sequence for pair in pairs for sequence in pair]
    small, large = (build(tmp_path / str(budget), scorer, pairs, budget=budget)[0] for budget in (128, 8192))
    assert np.abs(small.gather(flat) - large.gather(flat)).max() < 1e-5


def test_repetitions_are_scored_once(tmp_path):
    scorer = CountingScorer(tiny_llama())
    pairs = some_pairs(5)
    table, report = build(tmp_path, scorer, pairs + pairs + [[pair[1], pair[0]] for pair in pairs])
    assert (scorer.responses, report.num_scored, report.num_cached) == (10, 10, 20)
    assert len(table) == 10


def test_a_group_above_the_budget_repeats_its_prompt_and_a_response_above_it_is_an_error(tmp_path):
    scorer = CountingScorer(tiny_llama())
    rng = np.random.default_rng(0)
    ids = [np.concatenate([np.arange(3, 43), rng.integers(3, 100, 20)]).astype(np.int32) for _ in range(5)]
    group = [TokenSequence(one, np.arange(60) >= 40) for one in ids]
    with torch.no_grad():
        expected = [float(plain_logps(tiny_llama(), sequence)) for sequence in group]
    table, report = build(tmp_path, scorer, [group], budget=100)  # 40 + 3 * 19 fit, 40 + 5 * 19 do not
    assert (report.num_forwards, report.num_scored) == (2, 5)
    sums = table.gather(group).astype(np.float64).reshape(5, 20).sum(1)
    assert np.abs(sums - expected).max() < 1e-4
    with pytest.raises(ConfigError, match=r"^row 0 .* takes 59 tokens .* micro_batch_tokens is 58; raise that"):
        build_reference(table_of(tmp_path / "other", scorer), scorer, [group], budget=58, name="row {}".format)


def test_dropout_is_off_and_modes_are_given_back(tmp_path):
    model = tiny("gpt2")
    scorer = Scorer(model)
    pairs = some_pairs(4)
    quiet, _ = build(tmp_path / "quiet", scorer, pairs)
    model.train()
    model.transformer.h[1].eval()
    before = {name: module.training for name, module in scorer.named_modules()}
    assert any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in scorer.modules())
    noisy, _ = build(tmp_path / "noisy", scorer, pairs)
    assert {name: module.training for name, module in scorer.named_modules()} == before
    flat = [sequence for pair in pairs for sequence in pair]
    assert np.array_equal(quiet.gather(flat), noisy.gather(flat))


def test_values_that_are_not_finite_name_their_rows(tmp_path):
    class Broken(Scorer):
        def forward(self, batch):
            logps = super().forward(batch).clone()
            owner = torch.repeat_interleave(torch.arange(len(batch.count_R)), batch.count_R)
            poisoned = batch.target_S.index_select(0, batch.prediction_I) == 77
            assert (torch.bincount(owner[poisoned], minlength=len(batch.count_R)) <= 1).all()
            return logps.masked_fill(poisoned, float("nan"))

    pairs = [[TokenSequence(np.array([3, 4 + i, 5, 6], np.int32), np.arange(4) >= 2)] for i in range(6)]
    for row in (1, 4):
        pairs[row][0].ids[2] = 77
    table = table_of(tmp_path, Broken(tiny_llama()))
    with pytest.raises(TrainingError, match=r"not finite for prefs.jsonl:1, prefs.jsonl:4;"):
        build_reference(table, Broken(tiny_llama()), pairs, budget=512, name="prefs.jsonl:{}".format)
    assert len(table) == 0


def chunked(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(build_module, "_CHUNK_TOKENS", tokens)
    monkeypatch.setattr(build_module, "max", lambda *sizes: sizes[0], raising=False)


def test_an_interrupt_keeps_what_is_done(tmp_path, monkeypatch):
    chunked(monkeypatch, 400)
    pairs = some_pairs(30)
    scorer = CountingScorer(tiny_llama())
    table = table_of(tmp_path, scorer)

    def interrupt(report: BuildReport) -> None:
        if report.num_forwards == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_reference(table, scorer, pairs, budget=128, progress=interrupt)
    done = scorer.responses
    assert 0 < done < 60
    assert len(table_of(tmp_path, scorer)) == done  # also the chunk that was cut off
    _, report = build(tmp_path, scorer, pairs)
    assert (report.num_scored, report.num_cached) == (60 - done, done)


def test_an_interrupt_between_a_forward_and_its_storing_keeps_what_is_done(tmp_path, monkeypatch):
    chunked(monkeypatch, 400)
    pairs, calls = some_pairs(10), []
    real = build_module.layout_digests

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    scorer = CountingScorer(tiny_llama())
    table = table_of(tmp_path, scorer)
    monkeypatch.setattr(build_module, "layout_digests", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_reference(table, scorer, pairs, budget=64)
    assert 0 < len(table_of(tmp_path, scorer)) < scorer.responses


@pytest.mark.parametrize("name", ["llama", "gptj"])
@pytest.mark.parametrize("forwards", [1, 3, 6])
def test_after_an_interrupt_the_same_batches_are_computed(tmp_path, monkeypatch, name, forwards):
    """So the table has the same bits, also on a CPU where a row's bits depend on what is computed beside it."""
    chunked(monkeypatch, 1000)
    seen: list[bytes] = []

    class Watching(Scorer):
        def forward(self, batch):
            seen.append(batch.input_T.numpy().tobytes() + batch.prediction_I.numpy().tobytes())
            return super().forward(batch)

    def interrupt(report: BuildReport) -> None:
        if report.num_forwards == forwards:
            raise KeyboardInterrupt

    scorer, pairs = Watching(tiny(name)), some_pairs(40)
    seen.clear()  # of the trials of layouts
    flat = [sequence for pair in pairs for sequence in pair]
    straight, _ = build(tmp_path / "straight", scorer, pairs, budget=256)
    whole = sorted(seen)
    seen.clear()
    table = table_of(tmp_path / "stopped", scorer)
    with pytest.raises(KeyboardInterrupt):
        build_reference(table, scorer, pairs, budget=256, progress=interrupt)
    again, report = build(tmp_path / "stopped", scorer, pairs, budget=256)
    assert 0 < report.num_cached < len(flat)
    assert sorted(seen) == whole
    assert np.array_equal(again.gather(flat), straight.gather(flat))


def test_long_chunks_are_stored_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "_SECONDS_AT_RISK", -1.0)
    pairs = some_pairs(10)
    table, report = build(tmp_path, Scorer(tiny_llama()), pairs, budget=128)
    assert len(list(table.folder.glob("part-*"))) == report.num_forwards > 2
    assert not table.missing([sequence for pair in pairs for sequence in pair]).any()


def test_data_is_read_in_bounded_chunks(tmp_path, monkeypatch):
    chunked(monkeypatch, 1000)
    read_ahead: list[int] = []
    scored = [0]

    def rows() -> Iterator[list[TokenSequence]]:
        for number, pair in enumerate(some_pairs(80)):
            read_ahead.append(2 * number - scored[0])
            yield pair

    def count(report: BuildReport) -> None:
        scored[0] = report.num_scored

    scorer = Scorer(tiny_llama())
    report = build_reference(table_of(tmp_path, scorer), scorer, rows(), budget=512, progress=count)
    assert report.num_scored == 160
    assert max(read_ahead) < 60


def test_one_group_of_all_the_data_is_read_in_bounded_chunks(tmp_path, monkeypatch):
    chunked(monkeypatch, 1000)
    sequences = [sequence for pair in some_pairs(80) for sequence in pair]
    grown: list[int] = []
    original = build_module.grow_tree

    def growing(some: Sequence[TokenSequence], **options: Any) -> Any:
        grown.append(sum(len(sequence.ids) for sequence in some))
        return original(some, **options)

    monkeypatch.setattr(build_module, "grow_tree", growing)
    scored = [0]

    def rows() -> Iterator[TokenSequence]:
        for number, sequence in enumerate(sequences):
            assert number - scored[0] < 90  # the chunk that is scored, and the next
            yield sequence

    def count(report: BuildReport) -> None:
        scored[0] = report.num_scored

    scorer = Scorer(tiny_llama())
    table = table_of(tmp_path / "one", scorer)
    report = build_reference(table, scorer, [rows()], budget=512, progress=count)
    assert report.num_scored == 160 and max(grown) <= 1000
    apart = build(tmp_path / "apart", scorer, [[sequence] for sequence in sequences])[0]
    assert np.abs(table.gather(sequences) - apart.gather(sequences)).max() < 1e-5


def test_rows_of_equal_length_stand_together_where_prompts_cannot_be_shared(tmp_path):
    seen: list[tuple[int, int]] = []

    class Watching(Scorer):
        def _rows(self, batch):
            lengths = [branch.stop - branch.start for branch in batch.branches]
            seen.append((sum(lengths), max(lengths) * len(lengths)))
            return super()._rows(batch)

    build(tmp_path, Watching(tiny("gptj")), some_pairs(40, prompt=60), budget=400)
    assert all(padded <= 400 for _, padded in seen)
    assert sum(padded for _, padded in seen) < 1.15 * sum(real for real, _ in seen)


def test_a_damaged_part_is_said_and_computed_again(tmp_path):
    scorer = CountingScorer(tiny_llama())
    pairs = some_pairs(10)
    flat = [sequence for pair in pairs for sequence in pair]
    table, _ = build(tmp_path, scorer, pairs)
    before = table.gather(flat)
    values = next(table.folder.glob("part-*")) / "part.safetensors"
    content = bytearray(values.read_bytes())
    content[-2] ^= 1  # the second lowest byte of one log-prob
    values.write_bytes(content)
    scorer.responses = 0
    again, report = build(tmp_path, scorer, pairs)
    assert len(again.set_aside) == 1
    assert "part.safetensors is damaged" in again.set_aside[0]
    assert report.num_scored == scorer.responses == 20
    assert np.array_equal(again.gather(flat), before)


@pytest.fixture(scope="module")
def builders(tmp_path_factory) -> dict[str, Any]:
    command = [sys.executable, "-m", "support.builders", str(tmp_path_factory.mktemp("builders"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_processes_share_the_work_and_neither_breaks_the_other(builders):
    results = builders["two"]
    assert sum(result["responses"] for result in results) == 80, "each response is scored once by one of them"
    assert all(result["scored"] + result["cached"] == 80 for result in results)
    assert all(result["scored"] == result["responses"] for result in results)
    assert results[0]["sum"] == results[1]["sum"]
    assert sum(result["waited"] for result in results) >= 1


def test_a_killed_builder_loses_at_most_its_chunk_and_holds_up_nobody(builders):
    killed = builders["killed"]
    assert killed["was_killed"]
    assert killed["damaged"] == []
    assert 0 < killed["held"] < 80
    assert (killed["cached"], killed["scored_again"]) == (killed["held"], 80 - killed["held"])


def test_waiting_is_said(tmp_path):
    scorer = Scorer(tiny_llama())
    table = table_of(tmp_path, scorer)
    lock = take_lock(table.folder / ".lock", wait=False, create=True)
    assert lock is not None
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        release_lock(lock)

    build_reference(table, scorer, some_pairs(2), budget=512, say=say)
    assert len(said) == 1
    assert said[0].startswith("another process is filling reference cache")
    # With nothing to score there is nothing to wait for.
    lock = take_lock(table.folder / ".lock", wait=False, create=True)
    assert lock is not None
    assert build_reference(ReferenceTable.open(tmp_path, table.key), scorer, some_pairs(2), budget=512).num_cached == 4
    release_lock(lock)
