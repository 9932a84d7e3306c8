from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.data.prompts import encode_prompts, read_prompts
from preftree.errors import DataError
from preftree.generate.hf import Sampling, generate
from preftree.generate.job import read_job
from preftree.models.beside_weights import end_tokens
from preftree.models.load import load_tokenizer
from preftree.records import Message
from support.models import tiny_llama
from support.small_runs import make_model
from support.tokenizers import chat_tokenizer, plain_tokenizer

NUM = 21


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    make_model(folder / "model")
    rows = [{"prompt": f"{number}: the plot {'was ' * (number % 5)}", "id": number} for number in range(NUM)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def call(place: Path, out: str, *words: str, model: str = "model") -> list[dict]:
    command = ["generate", str(place / model), str(place / "prompts.jsonl"), str(place / out)]
    done = CliRunner().invoke(app, [*command, "--max-new-tokens", "8", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in (place / out).read_text().splitlines()]


def test_a_row_has_the_same_text_for_any_batch_size(place: Path) -> None:
    one, three, eight = (call(place, f"b{size}.jsonl", "--batch-size", str(size)) for size in (1, 3, 8))
    assert one == three == eight
    assert [row["prompt"] for row in one] == [f"{n}: the plot {'was ' * (n % 5)}" for n in range(NUM)]
    assert len({row["response"] for row in one}) > 10
    assert all(0 < row["tokens"] <= 8 for row in one)
    assert any(not row["finished"] for row in one)


def test_the_folder_of_a_run_is_the_model_in_it(place: Path) -> None:
    assert call(place, "run.jsonl", model=".") == call(place, "model.jsonl")


def test_samples_of_a_prompt_differ_and_seeds_do(place: Path) -> None:
    rows = call(place, "k.jsonl", "--samples", "3")
    assert [(row["prompt"], row["sample"]) for row in rows[:4]] == [
        ("0: the plot ", 0),
        ("0: the plot ", 1),
        ("0: the plot ", 2),
        ("1: the plot was ", 0),
    ]
    assert len({row["response"] for row in rows[:3]}) == 3
    assert rows != call(place, "k1.jsonl", "--samples", "3", "--seed", "1")


def test_a_job_goes_on_where_its_file_was_torn(place: Path) -> None:
    whole = call(place, "whole.jsonl")
    text = (place / "whole.jsonl").read_text()
    (place / "whole.jsonl").write_text(text + '{"prompt": "half a li')
    assert call(place, "whole.jsonl") == whole
    for damaged in (text[: len(text) // 3], text[:-1], text.replace("a", "b", 1)):
        (place / "whole.jsonl").write_text(damaged)
        with pytest.raises(DataError, match=r"whole.jsonl is not as `preftree generate` wrote it"):
            call(place, "whole.jsonl")
    (place / "whole.jsonl").unlink()
    assert call(place, "whole.jsonl") == whole


def test_ctrl_c_leaves_whole_rows_and_the_same_command_ends_the_job(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preftree.generate import hf, job

    real, calls = hf.generate, []

    def interrupted(*args, **options):
        calls.append(options["first_row"])
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **options)

    monkeypatch.setattr(hf, "generate", interrupted)
    monkeypatch.setattr(job, "BATCHES_AT_ONCE", 1)
    words = ["generate", str(place / "model"), str(place / "prompts.jsonl"), str(place / "stop.jsonl")]
    words += ["--max-new-tokens", "8", "--batch-size", "4"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 130
    assert len((place / "stop.jsonl").read_text().splitlines()) == 8
    monkeypatch.setattr(hf, "generate", real)
    monkeypatch.setattr(job, "BATCHES_AT_ONCE", 8)
    assert call(place, "stop.jsonl") == call(place, "straight.jsonl")


def test_another_job_does_not_go_on_in_the_file(place: Path) -> None:
    call(place, "mine.jsonl")
    command = ["generate", str(place / "model"), str(place / "prompts.jsonl"), str(place / "mine.jsonl")]
    done = CliRunner().invoke(app, [*command, "--max-new-tokens", "8", "--temperature", "0.5"])
    assert isinstance(done.exception, DataError)
    assert "temperature was 1.0, is 0.5" in str(done.exception)
    (place / "thesis.jsonl").write_text("mine\n")
    done = CliRunner().invoke(app, [*command[:3], str(place / "thesis.jsonl")])
    assert "was not written by `preftree generate`" in str(done.exception)
    assert (place / "thesis.jsonl").read_text() == "mine\n"


def test_a_file_that_is_gone_is_missed_by_who_takes_it(place: Path) -> None:
    call(place, "gone.jsonl")
    (place / "gone.jsonl").unlink()
    with pytest.raises(
        DataError, match=r"gone.jsonl cannot be read \(No such file or directory\), though .*gone.jsonl.job"
    ):
        read_job(place / "gone.jsonl")


def test_prompts_of_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert [(prompt.text, prompt.where.line) for prompt in read_prompts(str(tmp_path / "a.txt"))] == [
        ("one", 1),
        ("two", 3),
    ]
    turns = [{"role": "user", "content": "Hi"}]
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": turns}) + "\n" + json.dumps({"prompt": "x"}) + "\n")
    assert [prompt.text for prompt in read_prompts(str(tmp_path / "b.jsonl"))] == [(Message("user", "Hi"),), "x"]
    hh = {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
    (tmp_path / "c.jsonl").write_text(json.dumps(hh) + "\n")
    assert read_prompts(str(tmp_path / "c.jsonl"))[0].text == "\n\nHuman: Hi\n\nAssistant:"
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": "x"}) + "\n" + json.dumps({"prompt": 5}) + "\n")
    with pytest.raises(DataError, match=r"d\.jsonl:2: 'prompt' must be text, got"):
        read_prompts(str(tmp_path / "d.jsonl"))
    (tmp_path / "e.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(str(tmp_path / "e.txt"))


def test_prompts_have_the_ids_that_training_gives_them(place: Path) -> None:
    from preftree.data.tokens.tokenize import tokenize_file

    rows = [{"prompt": f"say {n} ->", "chosen": " yes", "rejected": " no"} for n in range(3)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = load_tokenizer(place / "model")
    store, _ = tokenize_file(str(place / "pairs.jsonl"), tokenizer, kind="pair", cache_dir=place / "cache")
    ids = encode_prompts(tokenizer, read_prompts(str(place / "pairs.jsonl")))
    for row, own in enumerate(ids):
        sequence = store[row].sequences[0]
        assert sequence.ids[: int(sequence.scored.argmax())].tolist() == own


def test_a_turn_ends_where_the_template_closes_it_or_the_model_says() -> None:
    chat, plain = chat_tokenizer(), plain_tokenizer()
    model = tiny_llama(len(chat))
    model.generation_config.eos_token_id = [7, 8]
    eos, closing = chat.eos_token_id, chat.convert_tokens_to_ids("<|im_end|>")
    assert end_tokens(model.generation_config, chat) == [eos, 7, 8, closing]
    model.generation_config.eos_token_id = None
    assert end_tokens(model.generation_config, plain) == [plain.eos_token_id]
    # All logits 0: the first id is taken, and that is the EOS.
    with torch.no_grad():
        model.lm_head.weight.zero_()
    (one,) = generate(model, chat, [[5, 6]], Sampling(4, temperature=0.0))
    assert eos == 0
    assert (one.text, one.ids, one.end, one.finished) == ("", (), 0, True)
