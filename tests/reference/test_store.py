"""The table on disk: what goes in comes out, and damage is found, said and mended."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from preftree.errors import CacheError
from preftree.reference import store
from preftree.reference.key import TableKey, sequence_digest
from preftree.reference.store import ReferenceTable
from preftree.storage import manifest
from preftree.tree.layout import TokenSequence
from support.tables import some_pairs

KEY = TableKey("c21e" * 16, "cpu/float32/fp32/sdpa", "s", "t", "u", "v")


def values_of(sequence: TokenSequence, dtype: type = np.float32) -> np.ndarray:
    """Numbers that tell the sequence they belong to."""
    return -(np.flatnonzero(sequence.scored) + sequence.ids[sequence.scored] / 128).astype(dtype)


def add(table: ReferenceTable, sequences: list[TokenSequence], dtype: type = np.float32) -> None:
    layouts = np.array([len(sequence.ids) for sequence in sequences], np.uint64)
    table.add([sequence_digest(one) for one in sequences], [values_of(one, dtype) for one in sequences], layouts)


def flat(number: int, seed: int = 0) -> list[TokenSequence]:
    return [sequence for group in some_pairs(number, seed=seed) for sequence in group]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gather_returns_what_was_added_in_any_order(tmp_path, dtype):
    sequences = flat(40)
    table = ReferenceTable.open(tmp_path, KEY)
    assert table.missing(sequences).all()
    add(table, sequences[:50], dtype)
    add(table, sequences[50:70], dtype)
    for view in (table, ReferenceTable.open(tmp_path, KEY)):
        assert len(view) == 70
        assert view.missing(sequences).tolist() == [False] * 70 + [True] * 10
        chosen = [sequences[index] for index in np.random.default_rng(0).integers(0, 70, 200)]
        gathered = view.gather(chosen)
        assert gathered.dtype == dtype
        assert np.array_equal(gathered, np.concatenate([values_of(one, dtype) for one in chosen]))
        assert view.layouts(chosen).tolist() == [len(one.ids) for one in chosen]
        gathered[:] = 0  # a copy: the table is read-only
        assert view.gather(chosen).any()
    assert len(table.gather([])) == 0
    with pytest.raises(CacheError, match=r"lacks 10 of 80 responses under weights c21ec21e.*ref build"):
        table.gather(sequences)


def test_digests_with_zero_bytes_are_told_apart(tmp_path):
    """numpy drops zeros at the end of fixed-width bytes when it hands them out."""
    digests = [bytes(16), bytes(15) + b"\1", b"\1" + bytes(15), b"\1\0" * 8, b"\xff" * 15 + b"\0", b"\xff" * 16]
    table = ReferenceTable.open(tmp_path, KEY)
    for first in (0, 3):
        some = digests[first : first + 3]
        table.add(some, [np.array([-1.0], np.float32)] * 3, np.zeros(3, np.uint64))
        held = digests[: first + 3]
        assert table.missing_digests(digests).tolist() == [digest not in held for digest in digests]


def test_tables_of_other_keys_are_other_tables(tmp_path):
    sequences = flat(3)
    add(ReferenceTable.open(tmp_path, KEY), sequences)
    other = TableKey("7f3a" * 16, *(getattr(KEY, name) for name in KEY.__slots__[1:]))
    assert ReferenceTable.open(tmp_path, other).missing(sequences).all()
    assert not ReferenceTable.open(tmp_path, KEY).missing(sequences).any()


def test_the_same_entries_written_twice_are_one_part(tmp_path):
    sequences = flat(3)
    first, second = ReferenceTable.open(tmp_path, KEY), ReferenceTable.open(tmp_path, KEY)
    add(first, sequences)
    add(second, sequences)
    assert len(ReferenceTable.open(tmp_path, KEY)) == len(sequences)
    assert np.array_equal(first.gather(sequences), second.gather(sequences))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_values_are_mapped_not_read(tmp_path):
    table = ReferenceTable.open(tmp_path, KEY)
    add(table, flat(3))
    values = f"{table.folder / table._parts[0].name / 'part.safetensors'}"
    assert values in Path("/proc/self/maps").read_text()
    assert not any(link.samefile(values) for link in Path("/proc/self/fd").iterdir() if link.exists())


MANY_PARTS = """
import os, resource, sys
from pathlib import Path
import numpy as np
from preftree.reference.store import ReferenceTable
from reference.test_store import KEY, add, flat, values_of
os.fsync = lambda _: None  # slow, and of no use here
root, sequences = Path(sys.argv[1]), flat(40)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
table = ReferenceTable.open(root, KEY)
for one in sequences:
    add(table, [one])
for view in (table, ReferenceTable.open(root, KEY)):
    assert not view.set_aside and len(view) == 80
    assert np.array_equal(view.gather(sequences), np.concatenate([values_of(one) for one in sequences]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
def test_a_table_of_more_parts_than_a_process_may_open_files(tmp_path):
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", MANY_PARTS, str(tmp_path)]
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", ["manifest", "sums", "arrays"])
def test_a_part_that_cannot_be_opened_is_not_damaged(tmp_path, monkeypatch, place):
    sequences = flat(3)
    add(ReferenceTable.open(tmp_path, KEY), sequences)

    def too_many(*_: object, **__: object) -> None:
        raise OSError(24, os.strerror(24))

    with monkeypatch.context() as patch:
        if place == "manifest":
            patch.setattr(Path, "read_bytes", too_many)
        elif place == "sums":
            patch.setattr(manifest, "hash_file", too_many)
        else:
            patch.setattr(store, "safe_open", too_many)
        with pytest.raises(CacheError, match=r"cannot be used .*Too many open files"):
            ReferenceTable.open(tmp_path, KEY)
    again = ReferenceTable.open(tmp_path, KEY)
    assert again.set_aside == [] and not again.missing(sequences).any()


def test_a_sequence_in_two_parts_counts_once(tmp_path):
    sequences = flat(3)
    table = ReferenceTable.open(tmp_path, KEY)
    add(table, sequences)
    add(table, sequences[2:4])
    for view in (table, ReferenceTable.open(tmp_path, KEY)):
        assert len(view) == 6
        assert np.array_equal(view.gather(sequences), np.concatenate([values_of(one) for one in sequences]))


FILES = ("part.safetensors", "MANIFEST.json")


@pytest.mark.parametrize("name", FILES)
def test_no_damage_is_silent(tmp_path, name):
    sequences = flat(6)
    table = ReferenceTable.open(tmp_path, KEY)
    add(table, sequences[:8])
    add(table, sequences[8:])
    bad = table.folder / table._parts[0].name
    other = (table.folder / table._parts[1].name / name).read_bytes()
    held = table.missing(sequences[:8])
    assert not held.any()
    own = (bad / name).read_bytes()
    chance = random.Random(name)
    damages: list[bytes | None] = [None, b"", own[: len(own) // 2], own[:-1], own + b"\0", bytes(len(own)), other]
    for _ in range(25):
        place, bit = chance.randrange(len(own)), chance.randrange(8)
        damages.append(own[:place] + bytes([own[place] ^ (1 << bit)]) + own[place + 1 :])
    for count, damage in enumerate(damages):
        if damage is None:
            (bad / name).unlink()
        else:
            (bad / name).write_bytes(damage)
        again = ReferenceTable.open(tmp_path, KEY)
        assert len(again.set_aside) == 1, count
        assert (name if name != "MANIFEST.json" else bad.name) in again.set_aside[0]
        assert again.missing(sequences).tolist() == [True] * 8 + [False] * 4
        assert len(list(table.folder.glob("damaged-part-*"))) == count + 1
        assert not ReferenceTable.open(tmp_path, KEY).set_aside
        add(again, sequences[:8])  # rebuilt under its old name
        assert np.array_equal(again.gather(sequences), np.concatenate([values_of(one) for one in sequences]))


def test_a_table_in_use_survives_that_its_part_is_set_aside(tmp_path):
    sequences = flat(3)
    table = ReferenceTable.open(tmp_path, KEY)
    add(table, sequences)
    part = table.folder / table._parts[0].name
    (part / "part.safetensors").unlink()
    ReferenceTable.open(tmp_path, KEY)
    assert not part.exists()
    assert np.array_equal(table.gather(sequences), np.concatenate([values_of(one) for one in sequences]))


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "tables").touch()
    with pytest.raises(CacheError, match=r"cannot be used .* set PREFTREE_CACHE"):
        ReferenceTable.open(tmp_path, KEY)


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    sequences = flat(4)
    table = ReferenceTable.open(tmp_path, KEY)
    add(table, sequences[:4])

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CacheError, match=r"cannot be written .*No space left.* set PREFTREE_CACHE"):
            add(table, sequences[4:])
    again = ReferenceTable.open(tmp_path, KEY)
    assert again.set_aside == []
    assert again.missing(sequences).tolist() == [False] * 4 + [True] * 4


def test_a_part_of_another_model_is_found_though_its_sums_are_right(tmp_path):
    sequences = flat(3)
    other = TableKey("7f3a" * 16, *(getattr(KEY, name) for name in KEY.__slots__[1:]))
    table, foreign = ReferenceTable.open(tmp_path, KEY), ReferenceTable.open(tmp_path, other)
    add(foreign, sequences)
    part = foreign.folder / foreign._parts[0].name
    shutil.copytree(part, table.folder / part.name)
    again = ReferenceTable.open(tmp_path, KEY)
    assert again.missing(sequences).all()
    assert f"is of table {other.digest[:8]}.., of another model" in again.set_aside[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("values", np.array([-1.0, np.nan], np.float32)),
        ("values", np.array([-1.0], np.float32)),
        ("values", np.array([-1.0, -2.0], np.float16)),
        ("offsets", np.array([0, 3, 2])),
        ("offsets", np.array([1, 2])),
        ("layouts", np.zeros(2, np.uint64)),
        ("digests", np.zeros((1, 15), np.uint8)),
    ],
)
def test_arrays_that_no_part_has_are_found_though_the_sums_are_right(tmp_path, name, value):
    arrays = {
        "digests": np.zeros((1, 16), np.uint8),
        "offsets": np.array([0, 2]),
        "values": np.array([-1.0, -2.0], np.float32),
        "layouts": np.zeros(1, np.uint64),
    }
    for changed, sound in ((arrays, True), (arrays | {name: value}, False)):
        root = tmp_path / str(sound)
        part = ReferenceTable.open(root, KEY).folder / "part-0"
        part.mkdir()
        save_file(changed, part / "part.safetensors", metadata={"table": KEY.digest})
        manifest.write_manifest(part)
        table = ReferenceTable.open(root, KEY)
        assert (len(table), len(table.set_aside)) == ((1, 0) if sound else (0, 1))


def test_a_part_of_an_earlier_version_is_set_aside_and_that_is_said(tmp_path):
    part = ReferenceTable.open(tmp_path, KEY).folder / "part-0"
    part.mkdir()
    np.save(part / "values.npy", np.zeros(3, np.float32))
    manifest.write_manifest(part)
    table = ReferenceTable.open(tmp_path, KEY)
    assert "is of an earlier version, which did not note the model that it is of; set aside as" in table.set_aside[0]
