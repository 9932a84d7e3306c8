"""Segments of branches: the same attention as branch by branch, with the kernel's definition in the kernel's place."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from preftree.errors import ModelError
from preftree.models.load import remove_dropout
from preftree.scoring.attention import varlen, varlen_check
from preftree.scoring.attention.dispatch import tree_attention
from preftree.scoring.attention.types import AttentionPath, TreeMask
from preftree.scoring.attention.varlen import Segments, attend_segments, segments_of
from preftree.scoring.attention.varlen_check import verify_kernel, why_not_flash
from preftree.scoring.scorer import Scorer
from preftree.scoring.verify import verify_scorer
from preftree.tree.layout import TreeBatch, batch_trees, grow_tree
from support.models import plain_all, random_sequences, tiny
from support.segments import plain_varlen, use_plain_varlen

CPU = torch.device("cpu")


def forest(seed: int) -> TreeBatch:
    """One to five trees; small alphabets make responses share beginnings, so that branches have several ancestors."""
    rng = np.random.default_rng(seed)
    trees = []
    for _ in range(int(rng.integers(1, 6))):
        alphabet = int(rng.choice([4, 5, 101]))
        responses, prompt = int(rng.integers(1, 6)), int(rng.integers(1, 20))
        trees.append(grow_tree(random_sequences(rng, responses=responses, prompt=prompt, most=12, alphabet=alphabet)))
    return batch_trees(trees)


def attend(path: AttentionPath, batch: TreeBatch, inputs: list[Tensor], **options: object) -> list[Tensor]:
    """Attended values, and gradients of a sum of them in which no two weigh the same."""
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    out, _ = tree_attention(nn.Identity(), *leaves, tree=TreeMask(batch, path), **options)  # pyright: ignore[reportArgumentType]
    slope = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, slope)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
def test_it_is_the_attention_of_the_branches(
    dtype: torch.dtype, tolerance: float, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_plain_varlen(monkeypatch)
    for seed in range(25):
        batch, generator = forest(seed), torch.Generator().manual_seed(seed)
        inputs = [
            torch.randn(1, number, len(batch.input_T), 8, generator=generator, dtype=torch.float64).to(dtype)
            for number in (heads[0], heads[1], heads[1])
        ]
        for options in ({}, {"scaling": 0.9}, {"sliding_window": 1}, {"sliding_window": 6}, {"sliding_window": 99}):
            expected, found = (attend(path, batch, inputs, **options) for path in ("sdpa", "varlen"))
            assert found[0].shape == (1, len(batch.input_T), heads[0], 8)
            # Together: some gradients are nothing but rounding, those of queries that see a single key, say.
            one, other = (torch.cat([each.flatten() for each in part]) for part in (expected, found))
            assert float((other - one).norm()) <= tolerance * float(one.norm())


def test_segments_by_hand() -> None:
    """A prompt of 2 with two responses, of which inputs are 1 and 2 tokens; then a row of 3."""
    tree = grow_tree(random_sequences(np.random.default_rng(0), responses=1, prompt=1, most=3))
    branches = tuple(
        replace(tree.branches[0], start=a, stop=b, parent=p) for a, b, p in [(0, 2, -1), (2, 3, 0), (3, 5, 0)]
    )
    batch = replace(batch_trees([tree]), branches=(*branches, replace(branches[0], start=5, stop=8)))
    segments = segments_of(batch, CPU)
    assert segments.key_K is not None
    assert segments.key_K.tolist() == [0, 1, 0, 1, 2, 0, 1, 3, 4, 5, 6, 7]
    assert segments.query_starts.tolist() == [0, 2, 3, 5, 8]
    assert segments.key_starts.tolist() == [0, 2, 5, 9, 12]
    assert (segments.most_queries, segments.most_keys) == (3, 4)
    assert segments_of(replace(batch, branches=(branches[0],)), CPU).key_K is None


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma3", "qwen2", "opt", "granite"])
def test_models_score_as_their_own_forward_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_varlen(monkeypatch)
    model = tiny(name)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    rng = np.random.default_rng(3)
    groups = [random_sequences(rng, responses=n, prompt=9, alphabet=6) for n in (1, 3, 5)]
    remove_dropout(model)
    scorer = Scorer(model, attention="varlen")
    scorer.checkpoint_gradients()  # computes attention again after the next batch was prepared
    assert scorer.numeric_mode == "cpu/float32/fp32/varlen"
    assert verify_scorer(scorer, groups).difference < 1e-4
    one, two = scorer(scorer.lay_out(groups[:1])), scorer(scorer.lay_out(groups[1:]))
    (one.double().sum() + two.double().sum()).backward()
    expected = plain_all(plain, groups)
    expected.sum().backward()
    torch.testing.assert_close(one.double().sum() + two.double().sum(), expected.sum(), rtol=0, atol=2e-4)
    pairs = [(a.grad, b.grad) for a, b in zip(model.parameters(), plain.parameters()) if a.grad is not None]
    difference, size = (
        sum(float(each.square().sum()) for each in part) for part in zip(*[(a - b, b) for a, b in pairs])
    )
    assert 0 < difference < 1e-10 * size


def test_half_precision_is_what_the_kernel_gets_and_the_gate_runs_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast queries and keys arrive in fp32; the gate's own forward is fp32 and goes branch by branch."""
    given: list[torch.dtype] = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, *rest: object) -> Tensor:
        given.extend(each.dtype for each in (query, key, value))
        return plain_varlen(query, key, value, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(
        varlen_check, "why_not_varlen", lambda model, precision, device: why_not_flash(model, precision)
    )
    monkeypatch.setattr(varlen, "_flash", kernel)
    scorer = Scorer(tiny("mistral"), precision="bf16", attention="varlen")
    assert set(given) == {torch.bfloat16}, "the kernel is tried before anything relies on it"
    given.clear()
    rng = np.random.default_rng(1)
    groups = [random_sequences(rng, responses=3, prompt=7)]
    verify_scorer(scorer, groups)
    assert given == []
    batch = scorer.lay_out(groups)
    logps = scorer(batch)
    logps.sum().backward()
    assert set(given) == {torch.bfloat16}
    scorer.attention = "sdpa"
    torch.testing.assert_close(logps, scorer(batch), rtol=0, atol=0.5)


def test_the_call_is_one_that_the_installed_torch_takes() -> None:
    """Signature, operator, its gradient's operator: all but the kernel runs on the meta device."""
    batch = forest(2)
    segments = segments_of(batch, CPU)
    assert segments.key_K is not None
    tensors = {name: getattr(segments, name).to("meta") for name in ("key_K", "query_starts", "key_starts")}
    segments = replace(segments, **tensors)
    for key_heads, window in ((4, None), (2, 5)):
        row = (len(batch.input_T), 16)
        query, key, value = (
            torch.empty(1, heads, *row, dtype=torch.bfloat16, device="meta", requires_grad=True)
            for heads in (4, key_heads, key_heads)
        )
        out = attend_segments(query, key, value, segments, 0.25, window)
        assert out.shape == query.shape
        assert [grad.shape for grad in torch.autograd.grad(out.sum(), [query, key, value])] == [
            query.shape,
            key.shape,
            key.shape,
        ]


def top_left(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float, window: tuple[int, int]):
    """The other way to align: the first query is at the first key."""
    outputs = []
    q_starts, k_starts = segments.query_starts.tolist(), segments.key_starts.tolist()
    for number in range(len(q_starts) - 1):
        queries = q_starts[number + 1] - q_starts[number]
        own = slice(k_starts[number], k_starts[number] + queries)
        alone = Segments(None, torch.tensor([0, queries]).int(), torch.tensor([0, queries]).int(), queries, queries)
        part = query[q_starts[number] : q_starts[number + 1]]
        outputs.append(plain_varlen(part, key[own], value[own], alone, scaling, window))
    return torch.cat(outputs)


def ignores_windows(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float, _: object) -> Tensor:
    return plain_varlen(query, key, value, segments, scaling, (-1, 0))


def stops_gradients_of_keys(query: Tensor, key: Tensor, *rest: object) -> Tensor:
    return plain_varlen(query, key.detach() + 0 * key, *rest)  # pyright: ignore[reportArgumentType]


def looks_one_ahead(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float, window: tuple[int, int]
):
    return plain_varlen(query, key, value, segments, scaling, (window[0], 1))


@pytest.mark.parametrize("wrong", [top_left, ignores_windows, stops_gradients_of_keys, looks_one_ahead])
@pytest.mark.parametrize("heads", [(4, 2), (16, 16), (32, 1)])
def test_a_kernel_that_is_another_is_refused(
    wrong: object, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify() -> float:
        return verify_kernel(*heads, 64, window=True, device=CPU, dtype=torch.bfloat16)

    monkeypatch.setattr(varlen, "_flash", plain_varlen)
    assert verify() < varlen_check.TOLERANCE / 1.5
    monkeypatch.setattr(varlen, "_flash", wrong)
    with pytest.raises(ModelError, match=r"differs from tree attention by .* use attention=auto"):
        verify()


def without_flash(name: str, **changes: object) -> PreTrainedModel:
    model = tiny(name)
    for option, value in changes.items():
        setattr(model.config, option, value)
    return model


@pytest.mark.parametrize(
    ("model", "precision", "reason"),
    [
        (tiny("llama"), "fp32", "precision=fp32 of float32 weights asks for more"),
        (tiny("gemma2"), "bf16", "cannot cap scores"),
        (tiny("gpt_oss"), "bf16", "no attention sinks"),
        (without_flash("llama", head_dim=20), "bf16", "got 20 and 20"),
        (without_flash("llama", head_dim=512), "bf16", "got 512 and 512"),
        (without_flash("llama", qk_head_dim=192, v_head_dim=128), "bf16", "got 192 and 128"),
    ],
)
def test_what_it_cannot_do_is_known_beforehand(model: PreTrainedModel, precision: str, reason: str) -> None:
    assert reason in str(why_not_flash(model, precision))


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "gemma3"])
def test_what_it_can_do(name: str) -> None:
    assert why_not_flash(tiny(name), "bf16") is None
    assert why_not_flash(tiny(name, dtype=torch.bfloat16), "fp32") is None


@pytest.mark.parametrize(("name", "reason"), [("llama", "runs on CUDA alone"), ("gptj", "no interface")])
def test_asked_for_and_not_to_be_had(name: str, reason: str) -> None:
    model = tiny(name)
    with pytest.raises(ModelError, match=f"attention=varlen cannot score .*: .*{reason}.*; use attention=auto"):
        Scorer(model.cpu(), precision="bf16", attention="varlen")
    assert model.config._attn_implementation != "preftree_tree", "the model is as it was"


def test_auto_takes_what_there_is() -> None:
    assert Scorer(tiny("llama"), precision="bf16").attention == "sdpa"
