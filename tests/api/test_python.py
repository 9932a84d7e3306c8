"""The Python API: the same runs as the command line, rows in memory, scores, losses and a custom training step."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM

import preftree
from preftree.config.load import load_config
from preftree.config.recipes import RECIPES
from preftree.data.prompts import prompts_in_memory
from preftree.errors import ConfigError, DataError
from preftree.evaluate.in_memory.after_training import run_recipe
from preftree.losses import PairSums, bind
from preftree.records import tools_of
from preftree.run_folder.finished_run import FinishedRun
from support.models import plain_logps
from support.small_runs import make_model, rows_of

DOCS = Path(__file__).parents[2] / "docs" / "python.md"
ROWS = [
    {"prompt": f"{number} is", "chosen": f" good {number}", "rejected": " bad" * (1 + number % 3)}
    for number in range(12)
]
OPTIONS = {"max_steps": 3, "batch_size": 4, "lr": 1e-3, "warmup_steps": 0}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFTREE_CACHE", str(tmp_path / "cache"))
    make_model(tmp_path / "model")
    return tmp_path


def test_a_call_trains_as_the_command_line_does(place: Path) -> None:
    run = preftree.dpo("model", ROWS, out="called", beta=0.3, eval_data=0.25, **OPTIONS)
    words = [f"{name}={value}" for name, value in OPTIONS.items()]
    data, same = "data=called/data.jsonl", ["model=model", "out=typed", "beta=.3", "eval_data=.25", *words]
    run_recipe(load_config(RECIPES["dpo"].config, [data, *same]))
    assert rows_of(place / "called") == rows_of(place / "typed")
    weights = [(place / out / "model" / "model.safetensors").read_bytes() for out in ("called", "typed")]
    assert weights[0] == weights[1]
    assert run.figures["pairs"] == 3 and run.signum == 0
    assert run.report.is_file() and run.model.is_dir()
    assert "<td>accuracy</td>" in run._repr_html_() and "report.html" in run._repr_html_()


def test_the_same_call_with_out_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    preftree.sft("model", ROWS, out="run", side="chosen", schedule="constant", **OPTIONS)
    longer = preftree.sft("model", ROWS, out="run", side="chosen", schedule="constant", **OPTIONS | {"max_steps": 5})
    assert [row["step"] for row in longer.metrics] == [1, 2, 3, 4, 5]
    again = preftree.sft("model", ROWS, out="run", side="chosen", schedule="constant", **OPTIONS | {"max_steps": 5})
    assert again.metrics == longer.metrics


def test_a_model_in_memory_does_not_replace_the_start_of_an_earlier_run(place: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained("model")
    preftree.dpo(model, ROWS, out="held", **OPTIONS)
    kept = (place / "held/start/model.safetensors").read_bytes()
    preftree.dpo(model, ROWS, out="held", **OPTIONS)  # it is finished
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(ConfigError, match=r"held/start holds other weights.*give another out"):
        preftree.dpo(model, ROWS, out="held", **OPTIONS)
    assert (place / "held/start/model.safetensors").read_bytes() == kept


def test_without_out_every_call_is_a_run_of_its_own() -> None:
    first, second = (preftree.dpo("model", ROWS, **OPTIONS | {"max_steps": 1}) for _ in range(2))
    assert first.path != second.path and first.model.is_dir()


def test_a_hugging_face_dataset_is_rows() -> None:
    run = preftree.dpo("model", datasets.Dataset.from_list(ROWS), out="set", **OPTIONS)
    assert run.figures["pairs"] == 12


def test_a_reward_model_and_online_runs() -> None:
    assert preftree.reward_model("model", ROWS, out="rm", **OPTIONS).figures["pairs"] == 12
    Path("judge.py").write_text("def length(prompt, response):\n    return float(len(response))\n")
    prompts = [{"prompt": row["prompt"]} for row in ROWS]
    options = OPTIONS | {"reward": "judge.py:length", "max_new_tokens": 4, "samples_per_prompt": 2}
    for train in (preftree.ppo, preftree.rloo):
        run = train("model", prompts, out=train.__name__, **options)
        assert isinstance(run, FinishedRun) and "reward" in run.figures


def test_a_fault_has_the_name_of_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    bad = [*ROWS[:3], {"prompt": "3 is", "chosen": 3, "rejected": " bad"}]
    with pytest.raises(DataError, match=r"data\[3\]\.chosen: must be text, got a number") as caught:
        preftree.dpo("model", bad, out="bad")
    assert "jsonl" not in str(caught.value)
    with pytest.raises(DataError, match=r"data\[1\] must be a mapping .* got str"):
        preftree.dpo("model", [ROWS[0], "text"], out="odd")
    with pytest.raises(DataError, match=r"data\[0\] cannot be written as JSON"):
        preftree.tokenize([{"prompt": "a", "chosen": object(), "rejected": "c"}], preftree.load("model"))


def test_a_refused_call_keeps_the_rows_of_the_run_before(place: Path) -> None:
    preftree.dpo("model", ROWS, out="kept", **OPTIONS)
    before = (place / "kept" / "data.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"out=kept holds the rows of another run as data\.jsonl; choose another out="):
        preftree.dpo("model", ROWS[:4], out="kept", **OPTIONS)
    assert (place / "kept" / "data.jsonl").read_bytes() == before


def test_an_option_that_is_wrong_leaves_no_folder(place: Path) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        preftree.dpo("model", ROWS, out="never", learning_rate=1e-3)
    assert not (place / "never").exists()


def test_a_folder_may_begin_at_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place / "home"))
    run = preftree.dpo("model", ROWS, out="~/runs/one", **OPTIONS | {"max_steps": 1})
    assert run.path == place / "home" / "runs" / "one" and run.model.is_dir()
    assert not (place / "~").exists()


def test_a_stopped_run_links_no_page() -> None:
    shown = FinishedRun(Path("run"), {"loss": 0.5}, [], signum=15)._repr_html_()
    assert "stopped by signal 15" in shown and "report.html" not in shown


def test_an_unknown_option_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="unknown option 'learning_rate'; here it is called lr"):
        preftree.dpo("model", ROWS, learning_rate=1e-3)


def test_the_log_is_that_of_the_command_line(place: Path) -> None:
    code = f"import preftree; preftree.dpo('model', {ROWS[:4]!r}, out='run', max_steps=1, batch_size=4)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=place)
    assert "4 examples (0 held out), 1 steps of 4" in done.stderr
    assert re.search(r"report in .*report\.html", done.stderr)


def test_scores_are_those_of_transformers() -> None:
    model = preftree.load("model")
    examples = preftree.tokenize(ROWS, model)
    scores = preftree.score(model, examples, micro_batch_tokens=64)
    plain = AutoModelForCausalLM.from_pretrained("model").eval()
    expected = [
        float(plain_logps(plain, sequence).sum().detach())
        for index in range(len(examples))
        for sequence in examples[index].sequences
    ]
    torch.testing.assert_close(scores.logps.float(), torch.tensor(expected), atol=1e-4, rtol=1e-5)
    assert scores.pairs.chosen.tolist() == scores.logps[::2].tolist()
    assert int(scores.num_tokens.sum()) == len(scores.token_logps)
    some = preftree.score(model, examples, rows=[2, 0])
    torch.testing.assert_close(some.pairs.chosen, scores.pairs.chosen[[2, 0]], atol=1e-4, rtol=1e-5)
    with pytest.raises(ConfigError, match="micro_batch_tokens is too small"):
        preftree.score(model, examples, micro_batch_tokens=3)


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo"])
def test_value_and_gradient_of_a_loss(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(4, generator=generator, dtype=torch.float64) - 9 for _ in range(4)]
    count = torch.full((4,), 3)
    given = {"policy": PairSums(*numbers[:2], count, count), "ref": PairSums(*numbers[2:], count, count)}
    bound = bind(name, {"beta": 0.3})
    value, gradient = preftree.loss(name, **{key: given[key] for key in bound.inputs}, beta=0.3)
    torch.testing.assert_close(value, bound(**{key: given[key] for key in bound.inputs}))
    step = 1e-6
    moved = given["policy"]._replace(chosen=given["policy"].chosen + step)
    slope = (bound(**{key: moved if key == "policy" else given[key] for key in bound.inputs}) - value) / step
    torch.testing.assert_close(gradient["policy"].chosen, slope, atol=1e-5, rtol=1e-4)
    assert set(gradient) == {"policy"}


def test_a_loss_that_lacks_something_says_what() -> None:
    with pytest.raises(ConfigError, match="loss 'dpo' needs the input 'policy'"):
        preftree.loss("dpo", beta=0.1)
    with pytest.raises(ConfigError, match="dpoo"):
        preftree.loss("dpoo")


def test_figures_of_a_policy_that_is_its_reference() -> None:
    model = preftree.load("model")
    figures = preftree.measure(model, ROWS, reference=model, beta=0.1)
    assert figures["loss"] == pytest.approx(0.6931472, abs=1e-5) and figures["margin"] == pytest.approx(0, abs=1e-5)
    with pytest.raises(ConfigError, match="loss 'dpo' needs a reference"):
        preftree.measure(model, ROWS)


def test_samples_are_the_same_for_a_seed() -> None:
    model = preftree.load("model")
    drawn = [preftree.sample(model, ["a", "bc"], samples=2, max_new_tokens=5, seed=3) for _ in range(2)]
    assert drawn[0] == drawn[1] and [len(texts) for texts in drawn[0]] == [2, 2]


def test_prompts_in_memory_are_read_as_rows() -> None:
    thought = {"role": "assistant", "content": "b", "reasoning_content": "c"}
    turns = [{"role": "user", "content": "a"}, thought, {"role": "user", "content": "d"}]
    tool = {"type": "function", "function": {"name": "search"}}
    whole, beside = prompts_in_memory([turns, {"prompt": "a", "tools": [tool]}])
    assert isinstance(whole.text, tuple) and whole.text[1].rest == {"reasoning_content": "c"}
    assert tools_of(beside.text) == (tool,)
    with pytest.raises(DataError, match=r"prompts:2: 'prompt\[0\].role' must be one of"):
        prompts_in_memory(["a", [{"role": "usr", "content": "a"}]])


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "data[3].chosen: must be text, got a number" in printed
    assert Path("trained/model.safetensors").is_file()


def test_a_step_of_ones_own_is_short() -> None:
    page = DOCS.read_text(encoding="utf-8")
    block = re.search(r"## A custom training step\n\n```python\n(.*?)```", page, re.DOTALL)
    assert block is not None and len(block[1].splitlines()) < 20


def test_importing_is_lazy_and_no_name_is_a_room() -> None:
    code = "import sys, preftree; assert 'torch' not in sys.modules; preftree.dpo; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    rooms = {path.name.removesuffix(".py") for path in Path(preftree.__path__[0]).iterdir()}
    assert not set(preftree.__all__) & rooms
