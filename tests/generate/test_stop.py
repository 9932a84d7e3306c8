"""Stop texts: where a response ends, for any batch, and that drawing ends with it."""

from __future__ import annotations

import pytest

from preftree.errors import ConfigError
from preftree.generate import hf
from preftree.generate.hf import generate
from preftree.generate.protocol import Generation, Sampling, cut_response
from preftree.worlds.sentiment import build_model, build_tokenizer
from support.tokenizers import plain_tokenizer

WORLD = build_tokenizer()
BYTES = plain_tokenizer()
END = BYTES.eos_token_id
assert isinstance(END, int)


def ids_of(text: str) -> list[int]:
    return BYTES(text)["input_ids"]


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("It is Paris.\n\n###\n\nmore", ("\n\n###",), "It is Paris."),
        ("It is Paris.\n\n##", ("\n\n###",), None),
        ("one STOP two HALT", ("HALT", "STOP"), "one "),
        ("STOP", ("STOP",), ""),
        ("aab", ("aab", "ab"), ""),  # both are whole at the same place; the first to begin counts
        ("caf\u00e9 au lait", ("\u00e9",), "caf"),
        ("no end", (), None),
    ],
)
def test_a_response_ends_where_the_first_stop_text_begins(text: str, stop: tuple[str, ...], wanted: str | None) -> None:
    ids = ids_of(text)
    got = cut_response(BYTES, [*ids, END, END], [END], stop)
    if wanted is None:
        assert got == Generation(text, tuple(ids), END)
        assert got.num_tokens == len(ids) + 1
        return
    assert (got.text, got.end, got.stopped, got.finished) == (wanted, None, True, True)
    whole = BYTES.decode(list(got.ids))
    assert any(one in whole for one in stop)
    assert not any(one in BYTES.decode(list(got.ids[:-1])) for one in stop)  # no token more than it took
    assert got.num_tokens == len(got.ids)


def test_what_follows_an_end_token_stops_nothing() -> None:
    drawn = [*ids_of("fine"), END, *ids_of("STOP")]
    assert cut_response(BYTES, drawn, [END], ("STOP",)) == Generation("fine", tuple(ids_of("fine")), END)
    cut = cut_response(BYTES, ids_of("fine"), [END], ("STOP",))
    assert not cut.finished and cut.text == "fine"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_text_for_batches_of_1_3_and_8_with_a_stop(temperature: float) -> None:
    """Against drawing to the limit, and cutting by hand."""
    model = build_model(WORLD, 0)
    prompts = [[2 + row % 12, 5, 3] for row in range(16)]
    whole = generate(model, WORLD, prompts, Sampling(12, temperature, seed=1))
    sampling = Sampling(12, temperature, seed=1, stop=("very", "movie was"))
    by_size = [generate(model, WORLD, prompts, sampling, batch_size=size) for size in (1, 3, 8)]
    assert by_size[0] == by_size[1] == by_size[2]
    for one, full in zip(by_size[0], whole, strict=True):
        places = [place for stop in sampling.stop if (place := full.text.find(stop)) >= 0]
        assert one.text == (full.text[: min(places)] if places else full.text)
        assert one.stopped == bool(places)
    if temperature:
        assert 3 < sum(one.stopped for one in by_size[0]) < 16


def test_drawing_ends_once_every_row_has_its_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    model, steps, real = build_model(WORLD, 0), [], hf.uniforms
    monkeypatch.setattr(hf, "uniforms", lambda *given: steps.append(given[2]) or real(*given))
    sampling = Sampling(25, seed=1, stop=("the", "a", "o", "u"))  # every word but two holds one of these letters
    (one,) = generate(model, WORLD, [[5, 3]], sampling)
    assert one.stopped and len(steps) == one.num_tokens < 25


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="a stop text must not be empty"):
        Sampling(1, stop=("x", ""))
