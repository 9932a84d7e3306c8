"""Files to stores: what is in them, by decoding; and that a second run tokenises nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from preftree.data.order import hold_out
from preftree.data.store.example import NO_PROMPT
from preftree.data.store.token_report import TokenReport
from preftree.data.store.token_store import TokenStore
from preftree.data.tokens import tokenize as room
from preftree.data.tokens.budgets import Budgets
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import CacheError, DataError
from preftree.tree.layout import TokenSequence, grow_tree
from support.datafiles import EXAMPLES, HH, write_rows
from support.tokenizers import BOS, END, EOS, chat_tokenizer, plain_tokenizer

PLAIN, WITH_BOS, CHAT = plain_tokenizer(), plain_tokenizer(bos=True), chat_tokenizer()
TOKENIZERS = {"plain": PLAIN, "bos": WITH_BOS, "chat": CHAT}


def tokenize(
    tmp_path: Path, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast = PLAIN, **options: Any
) -> tuple[TokenStore, TokenReport]:
    options = {"kind": "pair", "cache_dir": tmp_path / "cache", "max_rejected_share": 1.0} | options
    return tokenize_file(write_rows(tmp_path / "rows.jsonl", rows), tokenizer, **options)


def halves(sequence: TokenSequence, tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """Unscored and scored tokens as text."""
    return tokenizer.decode(sequence.ids[~sequence.scored]), tokenizer.decode(sequence.ids[sequence.scored])


@pytest.mark.parametrize("start", ["plain", "bos"])
def test_a_plain_pair(start: str, tmp_path: Path) -> None:
    tokenizer, bos = TOKENIZERS[start], BOS if start == "bos" else ""
    store, report = tokenize(
        tmp_path, [{"prompt": "2+2=", "chosen": " 4", "rejected": " five", "margin": 3}], tokenizer
    )
    (chosen, rejected) = store[0].sequences
    assert halves(chosen, tokenizer) == (bos + "2+2=", " 4" + EOS)
    assert halves(rejected, tokenizer) == (bos + "2+2=", " five" + EOS)
    assert chosen.ids[: len("2+2=") - 1].tolist() == rejected.ids[: len("2+2=") - 1].tolist()
    assert (store[0].figures, store[0].weight, store[0].tie) == ({"margin": (3.0,)}, 1.0, False)
    assert str(store[0].provenance) == f"{tmp_path}/rows.jsonl:1"
    assert (report.rows, report.accepted, report.examples, report.templated, report.cached) == (1, 1, 1, 0, False)


def test_a_transcript_is_cut_at_its_last_turn(tmp_path: Path) -> None:
    store, _ = tokenize(tmp_path, [HH])
    assert halves(store[0].sequences[0], PLAIN) == (
        HH["chosen"][: -len(" I think it is good.")],
        " I think it is good." + EOS,
    )


def test_an_empty_prompt_begins_with_bos_or_eos(tmp_path: Path) -> None:
    for tokenizer, start in ((PLAIN, EOS), (WITH_BOS, BOS)):
        store, _ = tokenize(tmp_path, [{"text": "A night."}], tokenizer, kind="demonstration")
        (sequence,) = store[0].sequences
        assert halves(sequence, tokenizer) == (start, "A night." + EOS)
        assert sequence.scored.tolist() == [False] + [True] * (len(sequence.ids) - 1)


def test_a_conversation_goes_through_the_template(tmp_path: Path) -> None:
    store, report = tokenize(tmp_path, [EXAMPLES["conversational"]], CHAT)
    prompt, response = halves(store[0].sequences[0], CHAT)
    assert (
        prompt == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert response == "4" + END and report.templated == 1
    with pytest.raises(DataError, match="has no chat template"):
        tokenize(tmp_path, [EXAMPLES["conversational"]], PLAIN)


@pytest.mark.parametrize("name", ["explicit", "conversational", "hh", "shp", "tldr", "ultrafeedback", "ranking"])
@pytest.mark.parametrize("side", [False, True])
def test_every_preference_format_is_tokenised(name: str, side: bool, tmp_path: Path) -> None:
    kind = "demonstration" if side else "pair"
    store, report = tokenize(tmp_path, [EXAMPLES[name]], CHAT, kind=kind, chosen_side=side)
    assert len(store) == {"ultrafeedback": 5, "ranking": 3}.get(name, 1) if not side else len(store) == 1
    assert all(len(store[i].sequences) == (1 if side else 2) for i in range(len(store))) and report.format == name


@pytest.mark.parametrize("name", ["prompt_completion", "messages", "text"])
def test_every_demonstration_format_is_tokenised(name: str, tmp_path: Path) -> None:
    store, _ = tokenize(tmp_path, [EXAMPLES[name]], CHAT, kind="demonstration")
    assert len(store) == 1 and len(store[0].sequences) == 1


def test_a_ranking_gives_all_its_pairs_on_one_prompt(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": [" a", " b", " c", " d"], "scores": [1, 4, 1, 2], "weight": 2}
    store, _ = tokenize(tmp_path, [row])
    pairs = [tuple(halves(s, PLAIN)[1].removesuffix(EOS) for s in store[i].sequences) for i in range(len(store))]
    assert pairs == [(" b", " d"), (" b", " a"), (" b", " c"), (" d", " a"), (" d", " c")]
    assert [store[i].figures["margin"] for i in range(5)] == [(2,), (3,), (3,), (1,), (1,)]
    assert store.weights.tolist() == [2] * 5 and len(set(store.prompts.tolist())) == 1
    assert {store.provenance(i).line for i in range(5)} == {1}


def test_what_the_store_counts_is_what_the_tree_holds(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "a b c d",
            "chosen": " it is good",
            "rejected": " it is bad",
        },  # shares a beginning beyond the prompt
        {"prompt": "a b c d", "chosen": " one", "rejected": " one two three"},  # one inside the other
        {"prompt": "", "chosen": "x", "rejected": "y"},
        {"prompt": "long " * 60, "chosen": " y" * 90, "rejected": " z" * 11},
        {"prompt": "t", "chosen": " same", "rejected": " same", "tie": True},
    ]
    store, _ = tokenize(tmp_path, rows)
    for index in range(len(store)):
        sequences = store[index].sequences
        assert store.num_tokens[index] == len(grow_tree(sequences))
        assert store.num_scored[index] == sum(int(sequence.scored.sum()) for sequence in sequences)
    assert store.prompts[0] == store.prompts[1] and len(set(store.prompts.tolist())) == 4
    assert np.flatnonzero(store.prompts == NO_PROMPT).tolist() == [2]
    assert [store[i].tie for i in range(5)] == [False] * 4 + [True]


LONG = {"prompt": "0 1 2 3 4 5 6 7 8 9", "chosen": " a b c d e f", "rejected": " a b"}


def test_drop_rejects_and_says_what_was_too_long(tmp_path: Path) -> None:
    short = {"prompt": "p", "chosen": " a", "rejected": " b"}
    store, report = tokenize(tmp_path, [short, LONG], budgets=Budgets(max_response_length=5))
    assert len(store) == 1 and report.faults == {"too_long": 1} and report.accepted == 1
    assert report.rejected[0].line == 2 and report.rejected[0].field == "chosen"
    with pytest.raises(DataError, match=r"1 of 2 rows rejected.*too_long 1.*:2: 'chosen' makes \d+ tokens"):
        tokenize(tmp_path, [short, LONG], budgets=Budgets(max_response_length=5), max_rejected_share=0.4)


def test_a_trimmed_prompt_loses_its_beginning_but_not_its_bos(tmp_path: Path) -> None:
    whole, _ = tokenize(tmp_path, [LONG], WITH_BOS)
    for size in (8, 4, 3):
        store, report = tokenize(
            tmp_path, [LONG], WITH_BOS, budgets=Budgets(max_prompt_length=size), truncation="trim_prompt"
        )
        for cut, full in zip(store[0].sequences, whole[0].sequences, strict=True):
            assert cut.ids[0] == full.ids[0] == WITH_BOS.bos_token_id
            tail = len(full.ids) - int(full.scored.sum()) - size + 1
            assert (
                cut.ids[1:].tolist() == full.ids[tail:].tolist()
                and cut.scored[1:].tolist() == full.scored[tail:].tolist()
            )
        assert report.actions == {"trimmed_prompt": 1} and report.places == {
            "trimmed_prompt": (f"{tmp_path}/rows.jsonl:1",)
        }
        assert store.prompts.tolist() == whole.prompts.tolist()  # the prompt it was, so that no split can part them


def test_a_trimmed_response_has_no_eos_and_at_least_one_token(tmp_path: Path) -> None:
    whole, _ = tokenize(tmp_path, [LONG])
    for size in range(1, 7):
        store, report = tokenize(
            tmp_path,
            [LONG | {"rejected": " z y"}],
            budgets=Budgets(max_response_length=size),
            truncation="trim_response",
        )
        chosen, rejected = store[0].sequences
        assert int(chosen.scored.sum()) == size and chosen.ids[-1] != PLAIN.eos_token_id
        assert chosen.ids.tolist() == whole[0].sequences[0].ids[: len(chosen.ids)].tolist()
        assert (rejected.ids[-1] == PLAIN.eos_token_id) == (report.actions == {"trimmed_response": 1})
        assert report.places == {"trimmed_response": (f"{tmp_path}/rows.jsonl:1",)}, "a row is named once"


def test_responses_that_a_cut_makes_equal_are_a_fault(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": " a b c d", "rejected": " a b x y"}, LONG | {"rejected": " x"}]
    store, report = tokenize(tmp_path, rows, budgets=Budgets(max_response_length=2), truncation="trim_response")
    assert len(store) == 1 and report.faults == {"same_responses": 1}
    assert "equal as tokens" in report.rejected[0].message


def test_pairs_of_a_ranking_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": [" a", " b" * 20, " c"]}
    store, report = tokenize(tmp_path, [row], budgets=Budgets(max_response_length=5))
    assert len(store) == 1 and report.actions == {"dropped_pair": 2} and report.accepted == 1
    store, report = tokenize(
        tmp_path,
        [row, row | {"prompt": "q", "responses": [" b" * 20, " c" * 20, " a"]}],
        budgets=Budgets(max_response_length=5),
    )
    assert len(store) == 1 and report.faults == {"too_long": 1}


def test_the_chosen_side_comes_once(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": " a", "rejected": f" {i}"} for i in range(3)]
    store, report = tokenize(tmp_path, rows, kind="demonstration", chosen_side=True)
    assert len(store) == 1 and report.actions == {"repeated_response": 2}
    with pytest.raises(DataError, match="side=chosen"):
        tokenize(tmp_path, rows, kind="demonstration")


def test_special_tokens_in_the_text_are_rejected(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "chosen": " a", "rejected": " b"} for i in range(3)] + [LONG | {"chosen": f"x{EOS}y"}]
    store, report = tokenize(tmp_path, rows)
    assert len(store) == 3 and report.faults == {"special_token": 1} and report.rejected[0].line == 4
    eos = [int((s.ids == PLAIN.eos_token_id).sum()) for i in range(3) for s in store[i].sequences]
    assert eos == [1] * 6


def test_text_without_a_token_is_counted(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "good": 2, "bad": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment] - a setter the stub lacks
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    rows = [
        {"prompt": "good", "chosen": "good", "rejected": "bad"},
        {"prompt": "odd", "chosen": "good", "rejected": "bad"},
    ]
    _, report = tokenize(tmp_path, rows, tokenizer)
    assert report.actions == {"unknown_token": 1} and report.places["unknown_token"] == (f"{tmp_path}/rows.jsonl:2",)


def count_encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each batch that is encoded."""
    calls: list[int] = []
    real = room.make_examples

    def counted(*args: Any) -> Any:
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(room, "make_examples", counted)
    return calls


def test_a_second_run_tokenises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_encodings(monkeypatch)
    first, report = tokenize(tmp_path, [LONG, LONG | {"chosen": ""}])
    assert calls == [1]
    second, again = tokenize(tmp_path, [LONG, LONG | {"chosen": ""}])  # the file is written anew, with the same content
    assert calls == [1] and again.cached and not report.cached
    assert second.digest == first.digest and second.folder == first.folder
    assert (again.faults, again.rejected, again.lengths) == (report.faults, report.rejected, report.lengths)
    with pytest.raises(DataError, match="1 of 2 rows rejected"):  # the limit holds for cached stores as well
        tokenize(tmp_path, [LONG, LONG | {"chosen": ""}], max_rejected_share=0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [HH, LONG]},
        {"tokenizer": WITH_BOS},
        {"budgets": Budgets(max_length=1000)},
        {"truncation": "trim_prompt"},
        {"kind": "demonstration", "chosen_side": True},
        {"format_name": "hh"},
    ],
    ids=str,
)
def test_whatever_can_change_a_token_makes_another_store(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [HH]
    tokenize(tmp_path, rows)
    calls = count_encodings(monkeypatch)
    options = {"rows": rows, "tokenizer": PLAIN} | change
    tokenize(tmp_path, **options)
    assert calls == ([] if "format_name" in change else [1])  # naming the format that was detected changes nothing


def test_a_changed_byte_is_seen_whatever_its_date(tmp_path: Path) -> None:
    import os

    store, _ = tokenize(tmp_path, [LONG])
    path = tmp_path / "rows.jsonl"
    status = path.stat()
    path.write_text(path.read_text().replace(" a b c", " a b d"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and path.stat().st_mtime_ns == status.st_mtime_ns
    other, _ = tokenize_file(str(path), PLAIN, kind="pair", cache_dir=tmp_path / "cache")
    assert other.digest != store.digest


def test_a_damaged_store_is_built_again_and_said_so(tmp_path: Path) -> None:
    store, _ = tokenize(tmp_path, [HH])
    (store.folder / "meta.json").write_text("{")
    again, report = tokenize(tmp_path, [HH])
    assert again.digest == store.digest and not report.cached and report.rebuilt is not None
    assert "tokenised again" in "\n".join(report.lines())
    (store.folder.parent / "files.json").write_text("[]")
    assert tokenize(tmp_path, [HH])[1].cached


def test_a_stopped_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path, [HH], on_rows=stop)
    assert [path.name for path in (tmp_path / "cache" / "tokens").iterdir()] == ["files.json"]


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room.StoreWriter, "append", full)
    with pytest.raises(CacheError, match=r"cannot be written \(No space left on device\); make room"):
        tokenize(tmp_path, [HH])
    assert [path.name for path in (tmp_path / "cache" / "tokens").iterdir()] == ["files.json"]


def test_a_file_that_changes_while_it_is_read_stops_the_run(tmp_path: Path) -> None:
    def grow(rows: int) -> None:
        with open(tmp_path / "rows.jsonl", "a") as file:
            file.write(json.dumps(LONG) + "\n")

    with pytest.raises(DataError, match="changed while it was read"):
        tokenize(tmp_path, [HH], on_rows=grow)


def test_the_report_in_words(tmp_path: Path) -> None:
    _, report = tokenize(
        tmp_path, [HH, LONG, LONG | {"chosen": " "}], budgets=Budgets(max_prompt_length=5), truncation="trim_prompt"
    )
    path = f"{tmp_path}/rows.jsonl"
    assert report.lines() == [
        f"{path}: explicit, plain text, 3 rows, 1 accepted, 1 examples",
        f"  rejected 1 x other_format, first {path}:1: the row holds HH transcripts, cut at the last assistant turn "
        "(hh) in a file of prompt, chosen and rejected as text (explicit); take it out",
        f"  rejected 1 x empty_response, first {path}:3: 'chosen' is an empty response; drop the row",
        f"  trimmed_prompt 1: prompts trimmed at the beginning; first {path}:2",
    ]


def test_rows_of_a_big_file_keep_their_order_and_places(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i % 7}:", "chosen": f" {i}", "rejected": f" {i + 1}"} for i in range(1500)]
    rows[700]["chosen"] = ""
    seen: list[int] = []
    store, report = tokenize(tmp_path, rows, on_rows=seen.append)
    assert len(store) == report.examples == 1499 and seen == sorted(seen) and seen[-1] == 1500
    assert [store.provenance(i).line for i in range(1499)] == [line for line in range(1, 1501) if line != 701]
    for index in np.random.default_rng(0).integers(0, 1499, 30).tolist():
        line = store.provenance(index).line
        assert halves(store[index].sequences[0], PLAIN)[1] == f" {line - 1}" + EOS
    train, held = hold_out(store.prompts, 0.3, 0)
    assert not set(store.prompts[train].tolist()) & set(store.prompts[held].tolist()) and len(held) > 200
