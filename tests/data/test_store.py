"""The store on disk: what goes in comes out, and damage never does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preftree.data.store.token_store import TokenStore
from preftree.data.store.writer import NewExample, StoreWriter
from preftree.errors import CacheError
from preftree.records import FIGURES, Provenance
from preftree.storage.manifest import write_manifest
from preftree.tree.layout import grow_tree


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def write(folder: Path, examples: list[NewExample]) -> TokenStore:
    folder.mkdir(exist_ok=True)
    writer = StoreWriter(folder, folder.name)
    for example in examples:
        writer.append(example)
    writer.finish({"rows": len(examples)})
    return TokenStore(folder)


def pair(line: int = 1, **changes: object) -> NewExample:
    fields = {
        "prompt": ids(7, 8, 9),
        "responses": (ids(1, 2), ids(1, 3, 2)),
        "scored": (((3, 5),), ((3, 6),)),
        "prompt_digest": -5,
        "provenance": Provenance("f.jsonl", line),
    }
    given = {name: changes.pop(name) for name in list(changes) if name in FIGURES}
    figures = {name: value if isinstance(value, tuple) else (value,) for name, value in given.items()}
    fields["figures"] = {name: values for name, values in figures.items() if values != (None,)}
    return NewExample(**(fields | changes))  # type: ignore[arg-type] - built from parts


arrays = st.lists(st.integers(0, 3), min_size=1, max_size=12).map(lambda values: ids(*values))


@st.composite
def examples(draw: st.DrawFn) -> dict[str, object]:
    """Up to four responses that often begin alike, with any runs of tokens scored."""
    prompt, responses, scored = draw(arrays), draw(st.lists(arrays, min_size=1, max_size=4)), []
    for response in responses:
        size = len(prompt) + len(response)
        mask = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
        mask[0], mask[-1] = False, True
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
        scored.append(tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2)))
    return {
        "prompt": prompt,
        "responses": tuple(responses),
        "scored": tuple(scored),
        "prompt_digest": draw(st.integers(-(2**63), 2**63 - 1)),
        "weight": draw(st.floats(0.1, 10)),
        "margin": draw(st.none() | st.floats(0, 10)),
        "tie": draw(st.booleans()),
        "win_prob": draw(st.none() | st.floats(0, 1)),
        "other_margin": draw(st.none() | st.floats(-10, 10)),
        "costs": draw(st.none() | st.tuples(st.floats(-5, 5), st.floats(-5, 5))),
        "scores": draw(st.none() | st.lists(st.floats(-5, 5), min_size=1, max_size=4).map(tuple)),
        "desirable": draw(st.none() | st.booleans()),
        "provenance": (draw(st.sampled_from(["a", "b"])), draw(st.integers(1, 10**9))),
    }


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(examples(), max_size=5))
def test_what_goes_in_comes_out(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    new = [pair(**(fields | {"provenance": Provenance(*fields["provenance"])})) for fields in drawn]
    store = write(tmp_path / "store", new)
    assert len(store) == len(new)
    for index, example in enumerate(new):
        got = store[index]
        for name in ("weight", "tie", "desirable", "figures"):
            assert getattr(got, name) == getattr(example, name)
        assert [name for name in FIGURES if store.has(name)[index]] == [name for name in FIGURES if name in got.figures]
        assert got.num_prompt == len(example.prompt)
        assert got.provenance == example.provenance and store.prompts[index] == example.prompt_digest
        for sequence, response, spans in zip(got.sequences, example.responses, example.scored, strict=True):
            assert sequence.ids.tolist() == [*example.prompt.tolist(), *response.tolist()]
            places = [place for start, stop in spans for place in range(start, stop)]
            assert np.flatnonzero(sequence.scored).tolist() == places
        assert store.num_tokens[index] == len(grow_tree(got.sequences))
        assert store.num_scored[index] == sum(int(s.scored.sum()) for s in got.sequences)


def test_examples_of_many_batches_are_found(tmp_path: Path) -> None:
    new = [
        pair(line, prompt=ids(*range(line % 11 + 1)), scored=(((line % 11 + 1, line % 11 + 3),),) * 2)
        for line in range(1, 1600)
    ]
    store = write(tmp_path / "store", new)
    assert len(store) == 1599
    for index in (0, 511, 512, 513, 1023, 1024, 1598):
        assert store[index].provenance.line == index + 1
        assert store[index].sequences[0].ids.tolist() == [*range((index + 1) % 11 + 1), 1, 2]
    for index in (-1, 1599):
        with pytest.raises(IndexError):
            store[index]


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    digest = write(tmp_path / "a", [pair()]).digest
    assert write(tmp_path / "b", [pair(line=9, provenance=Provenance("other", 3), prompt_digest=1)]).digest == digest
    others = [
        pair(weight=2.0),
        pair(margin=0.0),
        pair(tie=True),
        pair(win_prob=0.5),
        pair(other_margin=0.5),
        pair(costs=(0.0, 1.0)),
        pair(scores=(0.0, 1.0)),
        pair(desirable=False),
        pair(prompt=ids(7, 8), responses=(ids(9, 1, 2), ids(9, 1, 3, 2))),
        pair(scored=(((3, 5),), ((4, 6),))),
    ]
    digests = {write(tmp_path / f"c{i}", [other]).digest for i, other in enumerate(others)}
    assert len(digests | {digest}) == 11
    assert write(tmp_path / "d", [pair(), pair()]).digest != digest


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """Whatever one flipped bit does, the store refuses or gives exactly what was written."""
    new = [pair(line, margin=0.5, weight=float(line)) for line in range(1, 40)]
    store = write(tmp_path / "store", new)
    wanted = [contents(store, i) for i in range(len(store))]
    rng = np.random.default_rng(0)
    caught = 0
    for name, flips in (("examples.arrow", 200), ("meta.json", 50)):
        path = tmp_path / "store" / name
        sound = path.read_bytes()
        for place in rng.integers(0, len(sound) * 8, flips).tolist():
            damaged = bytearray(sound)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(bytes(damaged))
            try:
                store = TokenStore(tmp_path / "store")
                assert [contents(store, i) for i in range(len(store))] == wanted, (name, place)
            except CacheError:
                caught += 1
        path.write_bytes(sound)
    assert caught == 250


def contents(store: TokenStore, index: int) -> object:
    example = store[index]
    sequences = [(s.ids.tolist(), s.scored.tolist()) for s in example.sequences]
    counts = store.num_tokens[index], store.num_scored[index], store.prompts[index]
    return sequences, example.weight, example.figures, example.tie, example.provenance, counts


@pytest.mark.parametrize("damage", ["missing", "half", "empty", "other"])
@pytest.mark.parametrize("name", ["examples.arrow", "meta.json"])
def test_a_damaged_file_is_refused(name: str, damage: str, tmp_path: Path) -> None:
    write(tmp_path / "store", [pair()])
    write(tmp_path / "other", [pair(), pair()])
    path = tmp_path / "store" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        other = (tmp_path / "other" / name).read_bytes()
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "other": other}[damage])
    with pytest.raises(CacheError, match="store"):
        TokenStore(tmp_path / "store")


@pytest.mark.parametrize("names", [["examples.arrow"], ["meta.json"], ["examples.arrow", "meta.json"]])
def test_a_store_of_other_data_is_found_though_its_sums_are_right(names: list[str], tmp_path: Path) -> None:
    write(tmp_path / "store", [pair()])
    write(tmp_path / "other", [pair(weight=2.0)])
    for name in names:
        (tmp_path / "store" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    write_manifest(tmp_path / "store")
    with pytest.raises(CacheError, match="is of store 'other', of other data or another tokenizer"):
        TokenStore(tmp_path / "store")
