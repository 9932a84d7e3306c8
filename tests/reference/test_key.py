"""Digests: equal for what is equal in effect, different for what is not."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import preftree
from preftree.config.lora import LoraOptions
from preftree.errors import ModelError
from preftree.models.adapters import add_adapter
from preftree.reference import key as key_module
from preftree.reference.key import (
    SCORING_CODE,
    layout_digests,
    sequence_digest,
    table_key,
    weights_digest,
    weights_digest_of_model,
)
from preftree.runtime.paths import cache_root
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TokenSequence, batch_trees, grow_tree
from support.imports import imported_modules
from support.models import random_sequences, tiny_llama
from support.tables import with_adapter

ROOT = Path(preftree.__path__[0]).parent


def sequence(ids: list[int], scored: list[int]) -> TokenSequence:
    return TokenSequence(np.array(ids, np.int32), np.isin(np.arange(len(ids)), scored))


def test_sequence_digest_tells_ids_and_mask_and_nothing_else():
    base = sequence([5, 6, 7, 8], [2, 3])
    assert len(sequence_digest(base)) == 16
    assert sequence_digest(base) == sequence_digest(sequence([5, 6, 7, 8, 9], [2, 3]))  # what follows moves no score
    others = [
        sequence([5, 6, 7, 9], [2, 3]),  # a response token
        sequence([4, 6, 7, 8], [2, 3]),  # a prompt token
        sequence([6, 7, 8], [1, 2]),  # a trimmed prompt
        sequence([5, 6, 7, 8], [1, 2, 3]),  # a longer response
        sequence([5, 6, 7, 8], [3]),
        sequence([5, 6, 7, 8, 9], [2, 3, 4]),
        sequence([5, 6, 7], [2]),  # a trimmed response
    ]
    assert len({sequence_digest(one) for one in [base, *others]}) == len(others) + 1
    strided = TokenSequence(np.repeat(base.ids, 2)[::2], np.repeat(base.scored, 2)[::2])
    assert sequence_digest(strided) == sequence_digest(base)


def test_layout_digests_follow_the_branches_of_the_tree():
    """Against the tree itself: two sequences have equal digests if and only if their branches begin at equal depths."""
    rng = np.random.default_rng(3)
    seen: dict[int, list[int]] = {}
    for _ in range(60):
        group = random_sequences(
            rng, responses=int(rng.integers(1, 5)), prompt=int(rng.integers(1, 6)), most=6, alphabet=5
        )
        tree = grow_tree(group)
        for one, digest in zip(group, layout_digests(batch_trees([tree])).tolist(), strict=True):
            inputs = one.trimmed().ids[:-1]
            depths, parent, depth = [], -1, 0
            while depth < len(inputs):  # walk down the tree along the sequence's tokens
                branch = next(
                    number
                    for number, b in enumerate(tree.branches)
                    if b.parent == parent and tree.input_T[b.start] == inputs[depth]
                )
                depths.append(depth)
                parent, depth = branch, depth + tree.branches[branch].stop - tree.branches[branch].start
            assert seen.setdefault(digest, depths) == depths
    assert len({tuple(depths) for depths in seen.values()}) == len(seen) > 10
    assert layout_digests(batch_trees([grow_tree([one]) for one in group])).tolist() == [0] * len(group)


def test_table_key_has_everything_that_moves_a_number(monkeypatch):
    model = tiny_llama()
    weights = weights_digest_of_model(model)
    fp32, bf16 = (Scorer(model, precision=precision).numeric_mode for precision in ("fp32", "bf16"))
    base = table_key(weights, fp32)
    assert base == table_key(weights, fp32)
    assert base.digest == table_key(weights, fp32).digest
    assert base.torch == torch.__version__
    keys = [base, table_key("0" * 64, fp32), table_key(weights, bf16)]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_float32_matmul_precision", lambda: "high")  # TF32
        keys.append(table_key(weights, fp32))
    with monkeypatch.context() as patch:  # a CPU of the same capability that adds in another order
        patch.setattr(key_module, "rounding_digest", lambda threads, *, bf16: "another")
        keys.append(table_key(weights, fp32))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    keys.append(table_key(weights, fp32))
    monkeypatch.setattr(key_module, "code_digest", lambda modules: "another")
    keys.append(table_key(weights, fp32))
    monkeypatch.setattr(key_module.transformers, "__version__", "0")
    keys.append(table_key(weights, fp32))
    assert len({one.digest for one in keys}) == len(keys)


def test_all_that_the_scorer_imports_is_in_the_key():
    imported = imported_modules("preftree.scoring.scorer", ("preftree.tree.", "preftree.scoring."))
    assert "preftree.scoring.head" in imported and "preftree.tree.layout" in imported
    packages = {name for name in imported if (ROOT / name.replace(".", "/")).is_dir()}
    assert imported - packages <= set(SCORING_CODE), "name it in reference/key.py: SCORING_CODE"


def test_what_scores_nothing_is_not_in_the_key():
    assert not set(SCORING_CODE) & {f"preftree.scoring.{name}" for name in ("critic", "reward_scorer", "verify")}


def test_model_digest_sees_one_weight_a_name_a_dtype_and_the_configuration():
    model = tiny_llama()
    before = weights_digest_of_model(model)
    assert weights_digest_of_model(tiny_llama()) == before
    Scorer(model)  # sets the attention; that is the numeric mode's to say
    assert weights_digest_of_model(model) == before
    assert weights_digest_of_model(tiny_llama(seed=1)) != before
    assert weights_digest_of_model(tiny_llama().bfloat16()) != before
    weight = model.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight[3, 4] *= 1.01
    assert weights_digest_of_model(model) != before
    other = tiny_llama()
    other.config.rms_norm_eps = 1e-5
    assert weights_digest_of_model(other) != before
    with pytest.raises(ValueError, match="pass the model in the wrapper"):
        weights_digest_of_model(with_adapter(tiny_llama(), seed=0))


def test_model_digest_sees_an_adapter_and_its_options():
    def digest(seed: int = 0, alpha: float = 32.0) -> str:
        model = tiny_llama()
        add_adapter(model, LoraOptions(r=2, alpha=alpha).filled(), seed=seed)
        return weights_digest_of_model(model)

    assert digest() == digest()
    assert len({weights_digest_of_model(tiny_llama()), digest(), digest(seed=1), digest(alpha=16.0)}) == 4


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_llama().save_pretrained(tmp_path / "model", max_shard_size="50KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    return tmp_path / "model"


def let_it_rest(folder: Path) -> None:
    """As if the files had been written an hour ago."""
    past = time.time() - 3600
    for path in folder.iterdir():
        os.utime(path, (past, past))


def count_hashing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    hashed: list[str] = []
    original = key_module.hash_file

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return original(path)

    monkeypatch.setattr(key_module, "hash_file", counting)
    return hashed


def test_folder_digest_is_remembered_until_a_file_changes(folder, tmp_path, monkeypatch):
    memo = tmp_path / "cache"
    monkeypatch.setattr(key_module, "_FRESH_NS", -(10**18))  # the change time of these files is always new
    hashed = count_hashing(monkeypatch)
    let_it_rest(folder)
    first = weights_digest(folder, memo=memo)
    assert "config.json" in hashed
    assert "generation_config.json" not in hashed
    number = len(hashed)
    assert weights_digest(folder, memo=memo) == first
    assert len(hashed) == number
    shard = sorted(folder.glob("*.safetensors"))[0]
    status = shard.stat()
    with open(shard, "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\1")  # one weight
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same modification time
    changed = weights_digest(folder, memo=memo)
    assert changed != first
    assert hashed[number:] == [shard.name]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    assert weights_digest(folder, memo=memo) not in (first, changed)
    for note in (memo / "weights").iterdir():
        note.write_text("{damaged")
    (folder / "config.json").write_text(json.dumps(config))
    assert weights_digest(folder, memo=memo) != changed  # other whitespace is another file; only the bytes are known


def test_a_file_changed_a_moment_ago_is_not_remembered(folder, tmp_path, monkeypatch):
    hashed = count_hashing(monkeypatch)
    first = weights_digest(folder, memo=tmp_path / "cache")
    number = len(hashed)
    assert weights_digest(folder, memo=tmp_path / "cache") == first
    assert len(hashed) == 2 * number


def test_folder_digest_of_adapters_and_of_other_formats(folder, tmp_path):
    adapters = []
    for seed in (0, 1):
        with_adapter(tiny_llama(), seed=seed).save_pretrained(tmp_path / f"adapter{seed}")
        adapters.append(tmp_path / f"adapter{seed}")
    memo = tmp_path / "cache"
    digests = {weights_digest(folder, memo=memo), *(weights_digest(folder, one, memo=memo) for one in adapters)}
    assert len(digests) == 3
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match="no weights in safetensors format"):
        weights_digest(tmp_path / "pickles", memo=memo)


def test_cache_root(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFTREE_CACHE", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("PREFTREE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "preftree"
