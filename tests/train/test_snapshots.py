import shutil
from pathlib import Path

import pytest
import torch

from preftree.evaluate.frontier import policies
from preftree.storage.checkpoint import list_checkpoints, load_checkpoint, step_of
from preftree.train.dpo import run_dpo
from preftree.train.snapshots import is_snapshot_step
from support.small_runs import dpo_config, make_model, make_pairs


@pytest.mark.parametrize(
    ("factor", "steps"),
    [
        (2.0, [1, 2, 4, 8, 16, 32]),
        (3.0, [1, 3, 9, 27]),
        (1.5, [1, 2, 3, 5, 8, 11, 17, 26, 38]),
        (2**0.5, [1, 2, 3, 4, 6, 8, 11, 16, 23, 32]),
        (1.01, [*range(1, 40)]),
    ],
)
def test_steps_grow_by_the_factor(factor: float, steps: list[int]) -> None:
    """1.5: 1, 1.5, 2.25, 3.375, 5.06, 7.59, 11.4, 17.1, 25.6, 38.4, and 1.5 rounds to the even 2."""
    assert [step for step in range(40) if is_snapshot_step(step, factor)] == steps


def test_a_run_leaves_its_weights_along_the_way(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 12)
    words = ("max_steps=5", "save_every=1", "keep_checkpoints=9", "snapshots=2")
    run_dpo(dpo_config(tmp_path, "run", *words))
    snapshots = list_checkpoints(tmp_path / "run" / "snapshots")
    assert [step_of(path) for path in snapshots] == [1, 2, 4]
    for path in snapshots:
        kept = load_checkpoint(path.parent, path)
        whole = load_checkpoint(tmp_path / "run" / "checkpoints", tmp_path / "run" / "checkpoints" / path.name)
        assert kept is not None and whole is not None
        assert kept.state.tensors.keys() == {"model"}
        for name, tensor in whole.state.tensors["model"].items():
            assert torch.equal(kept.state.tensors["model"][name], tensor)


def test_snapshots_of_a_run_that_died_are_not_those_of_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 12)
    run_dpo(dpo_config(tmp_path, "run", "max_steps=3", "snapshots=1.2", "lr=1e-2"))
    for name in ("checkpoints", "model", "summary.json"):  # as if it had been killed before its first checkpoint
        path = tmp_path / "run" / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    run_dpo(dpo_config(tmp_path, "run", "max_steps=5", "snapshots=4", "lr=1e-3"))
    with caplog.at_level("WARNING", "preftree"):
        steps = [step for step, _ in policies(tmp_path / "run")]
    assert steps == [1, 4, 5]
    assert sum("belongs to another run" in record.getMessage() for record in caplog.records) == 2
