"""Sealed JSON: any change of a byte is found, and a file of an earlier version is still read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from preftree.errors import DataError
from preftree.storage.json_file import read_json, write_json


class Content(BaseModel):
    steps: int
    note: str = ""


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write_json(path, {"steps": 7, "note": "é \ud800"})
    whole = path.read_bytes()
    assert read_json(path, Content, "mend it") == Content(steps=7, note="é \ud800")
    damages = [whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]
               for place in range(len(whole)) for bit in range(8)]  # fmt: skip
    for damaged in [*damages, *(whole[:size] for size in range(len(whole))), whole + b"\n", bytes(len(whole))]:
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"kept\.json: .*; mend it"):
            read_json(path, Content, "mend it")


def test_a_file_of_an_earlier_version_is_checked_by_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"steps": 7}))
    assert read_json(path, Content, "mend it").steps == 7
    for content in ('{"steps": "seven"}', "[]", "[" * 100_000, "{}", "", '{"steps": NaN}'):
        path.write_text(content)
        with pytest.raises(DataError, match=r"old\.json: .*; mend it"):
            read_json(path, Content, "mend it")
