"""YAML for configurations: core-schema words, line numbers, and everything that must be refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftree.config.yaml import flatten, read_yaml, read_yaml_file
from preftree.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        (".05", 0.05),
        ("-1.5E+3", -1500.0),
        ("1.", 1.0),
        ("3", 3),
        ("-3", -3),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"no"', "no"),
        ("a/b.jsonl", "a/b.jsonl"),
        ("[1, x]", [1, "x"]),
        ("{name: cdpo, label_smoothing: .1}", {"name": "cdpo", "label_smoothing": 0.1}),
    ],
)
def test_words_are_read_by_the_core_schema(text: str, value: object) -> None:
    read, _ = read_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr: 1\nbeta: 2\nlr: 3\n", "f.yaml:3: 'lr' is set twice, first on line 1"),
        ("loss:\n  name: a\n  name: b\n", "f.yaml:3: 'loss.name' is set twice, first on line 2"),
        ("a: &x 1\n", "f.yaml:1: anchors and aliases"),
        ("a: *x\n", "f.yaml:1: anchors and aliases"),
        ("a: &a [1]\nb: [*a, *a]\n", "f.yaml:1: anchors and aliases"),
        ("a: !!python/object/apply:os.system ['true']\n", "f.yaml:1: the tag"),
        ("a: !!python/name:os.system\n", "f.yaml:1: the tag"),
        ("!!binary aGk=\n", "the tag"),
        ("a: !!timestamp 2001-01-01\n", "the tag"),
        ("a: !env SECRET\n", "f.yaml:1: the tag '!env'"),
        ("x: 1\na: [1, 2\n", "is not valid YAML"),
        ("a: b: c\n", "f.yaml:1: is not valid YAML"),
        ("\ta: 1\n", "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "is not valid YAML"),
        ("1: 2\n", "an option's name must be a word, got '1'"),
        ("[a]: 2\n", "an option's name must be a word"),
        ("true: 2\n", "an option's name must be a word"),
        ("? {a: 1}\n: 2\n", "an option's name must be a word"),
        ("a: \x00\n", "is not valid YAML"),
        ("[" * 2000 + "]" * 2000, "nested more than"),
        ("a:\n" + "".join(" " * i + "a:\n" for i in range(1, 40)), "nested more than"),
        ("- 1\n- 2\n", "must be a mapping of options"),
        ("just words\n", "must be a mapping of options"),
        ("9" * 5000, "holds a value that cannot be read"),
        ("<<: {a: 1}\n", "unknown option '<<'"),
    ],
)
def test_what_is_refused_names_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    from preftree.config.dpo import DpoConfig
    from preftree.config.load import load_config

    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(DpoConfig, [str(path)])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml_file(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"out: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 8\)"):
        read_yaml_file(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_text("a: " + "x" * (1 << 20))
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        read_yaml_file(tmp_path / "big.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml_file(tmp_path / "empty.yaml") == ({}, {})


def test_lines_of_nested_options() -> None:
    _, lines = read_yaml("model: m\n\nloss:\n  name: cdpo\n  label_smoothing: .1\n", "f")
    assert lines == {"model": 1, "loss": 3, "loss.name": 4, "loss.label_smoothing": 5}


def test_flatten() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}
