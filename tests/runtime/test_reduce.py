"""Sums over ranks, with real processes; and the words for ranks that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from preftree.errors import ConfigError, UserError
from preftree.runtime.ranks import Ranks, open_ranks
from preftree.runtime.reduce import lead_first, max_over_ranks, sum_gradients, sum_over_ranks
from support.ranks import run_ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def _sum(ranks: Ranks, folder: Path) -> None:
    shapes = [(3, 4), (5,), (2, 2), (7,)]
    parameters = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    for index, parameter in enumerate(parameters):
        # The third has a gradient on rank 1 only, the last on no rank.
        if index < 2 or (index == 2 and ranks.rank == 1):
            parameter.grad = torch.full_like(parameter, float(10 ** (index + ranks.rank)))
    sum_gradients([*parameters, frozen], ranks)
    table = sum_over_ranks(torch.tensor([1.0 + ranks.rank, 0.5]), ranks)
    most = max_over_ranks(15 * ranks.rank, ranks)
    found = [None if p.grad is None else p.grad.unique().tolist() for p in parameters]
    (folder / f"{ranks.rank}").write_text(repr((found, frozen.grad, table.tolist(), most)))


def test_two_ranks_end_with_the_same_sums(tmp_path: Path) -> None:
    run_ranks(2, _sum, tmp_path)
    expected = ([[11.0], [110.0], [1000.0], None], None, [3.0, 1.0], 15)
    assert [(tmp_path / rank).read_text() for rank in "01"] == [repr(expected)] * 2


def test_one_process_is_a_world() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    sum_gradients([parameter], ALONE)
    assert parameter.grad.tolist() == [1.0, 1.0]
    assert sum_over_ranks(torch.tensor([2.0]), ALONE).tolist() == [2.0]
    assert max_over_ranks(3, ALONE) == 3
    with open_ranks() as ranks:
        assert (ranks.rank, ranks.size, ranks.leads) == (0, 1, True)


def test_a_half_announced_world_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="RANK, MASTER_ADDR, MASTER_PORT is not set; start"), open_ranks():
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE must be a whole number, got 'two'"), open_ranks():
        pass


def _lead(ranks: Ranks, folder: Path) -> None:
    def write() -> str:
        if ranks.leads:
            (folder / "cache").write_text("from rank 0")
        return (folder / "cache").read_text()

    assert lead_first(ranks, write) == "from rank 0"

    def fail() -> None:
        assert ranks.leads, "the others must not try"
        raise ConfigError("no such file")

    with pytest.raises(UserError) as caught:
        lead_first(ranks, fail)
    (folder / f"message-{ranks.rank}").write_text(str(caught.value))


def test_rank_0_goes_first_and_the_others_hear_of_its_failure(tmp_path: Path) -> None:
    run_ranks(2, _lead, tmp_path)
    assert (tmp_path / "message-0").read_text() == "no such file"
    assert (tmp_path / "message-1").read_text() == "rank 0 has stopped the run; its message gives the reason"
