"""A loss from a file of the user: the same run as with ours, and a sentence for each mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.config.load import load_config
from preftree.config.reward import RewardConfig
from preftree.errors import CheckpointError, ConfigError, TrainingError
from preftree.losses import bind
from preftree.losses.curve import example_inputs
from preftree.train.dpo import run_dpo
from preftree.train.objective import bind_loss, bind_objective, bind_reward
from preftree.train.reward import run_reward
from support.small_runs import dpo_config, make_model, make_pairs, rows_of

HEAD = "import torch\nfrom torch.nn.functional import logsigmoid\nfrom preftree.losses.options import Beta, Positive\n"
DPO = """
from preftree.losses import delta
def mine(policy, ref, *, beta: Beta = 0.1):
    return -logsigmoid(beta * delta(policy, ref))
"""
BRADLEY_TERRY = """
def mine(rewards):
    return -logsigmoid(rewards.chosen - rewards.rejected)
"""
DOCS = Path(__file__).parents[2] / "docs" / "losses.md"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 16)
    return tmp_path


def written(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(HEAD + text)
    return f"{folder}/mine.py:mine"


def figures(folder: Path) -> list[dict[str, object]]:
    return list(rows_of(folder))


def test_a_copy_of_dpo_trains_as_dpo_bit_for_bit(place: Path) -> None:
    run_dpo(dpo_config(place, "ours", "loss=dpo", "loss.beta=.3", "max_steps=3"))
    run_dpo(dpo_config(place, "theirs", f"loss={written(place, DPO)}", "loss.beta=.3", "max_steps=3"))
    assert figures(place / "ours") == figures(place / "theirs")
    ours, theirs = ((place / name / "model" / "model.safetensors").read_bytes() for name in ("ours", "theirs"))
    assert ours == theirs


def test_a_copy_of_bradley_terry_trains_a_reward_model(place: Path) -> None:
    words = [f"model={place}/model", f"data={place}/pairs.jsonl", "max_steps=2"]
    for name, loss in (("ours", "bradley_terry"), ("theirs", written(place, BRADLEY_TERRY))):
        run_reward(load_config(RewardConfig, [*words, f"out={place}/{name}", f"loss={loss}"]))
    assert figures(place / "ours") == figures(place / "theirs")


def test_an_edited_file_is_another_run(place: Path) -> None:
    loss = written(place, DPO)
    words = (f"loss={loss}", "save_every=1", "loss.beta=.3")
    run_dpo(dpo_config(place, "run", *words, "max_steps=1"))
    written(place, DPO.replace("-logsigmoid", "-2 * logsigmoid"))
    with pytest.raises(CheckpointError, match=r"file of .*mine"):
        run_dpo(dpo_config(place, "run", *words, "max_steps=2", "resume=auto"))


def test_options_and_sums(place: Path) -> None:
    text = DPO.replace("beta: Beta = 0.1", "beta: Beta = 0.1, tau: Positive = 1.0")
    loss = written(place, text)
    config = dpo_config(place, "run", f"loss={{{loss}: 2, sft: .5}}", "beta=.3")
    objective = bind_objective(config)[1]
    assert objective.lead.options == {"beta": 0.3, "tau": 1.0}
    assert objective.label == f"2 {loss} + 0.5 sft"
    assert len(objective.identity[f"file of {loss}"]) == 64
    assert bind_objective(dpo_config(place, "run", f"loss={loss}", "loss.tau=2"))[1].lead.options["tau"] == 2
    with pytest.raises(ConfigError, match=r"tau must be > 0, got -1"):
        bind_objective(dpo_config(place, "run", f"loss={loss}", "loss.tau=-1"))
    with pytest.raises(ConfigError, match=r"does not take 'tua', its options are: .*did you mean 'tau'"):
        bind_objective(dpo_config(place, "run", f"loss={loss}", "loss.tua=1"))


KINDS = {
    "def mine(policy):\n    return -policy.chosen": "pair",
    "def mine(policy_tokens, ref_tokens):\n    return torch.stack([x.sum() for x in policy_tokens.chosen.logps.split("
    "policy_tokens.chosen.num_tokens.tolist())])": "pair",
    "def mine(responses, ref_responses, desirable):\n    return -responses.values": "response",
    "def mine(policy_lists):\n    return policy_lists.values[::2]": "list",
    "def mine(logps):\n    return -logps": "demonstration",
}


@pytest.mark.parametrize(("text", "kind"), KINDS.items(), ids=KINDS.values())
def test_inputs_say_the_kind_of_example(tmp_path: Path, text: str, kind: str) -> None:
    assert bind_loss(written(tmp_path, text)).spec.kind == kind


WRONG = {
    "def other(policy):\n    return policy.chosen": "mine.py has no function 'mine'",
    "def mine(polcy):\n    return polcy.chosen": "'polcy' is no input of a loss of a policy; inputs are policy, ref",
    "def mine(policy, state):\n    return policy.chosen": "'state' is no input of a loss of a policy",
    "def mine(rewards):\n    return rewards.chosen": "'rewards' is no input of a loss of a policy",
    "def mine(*policy):\n    return policy": r"its signature must name inputs before a `\*` and options after it",
    "def mine():\n    return 0": "it takes no inputs",
    "def mine(margins):\n    return margins": "a loss of pairs must take policy or policy_tokens",
    "def mine(responses):\n    return responses.values": "must take desirable, ref_responses, responses",
    "def mine(policy, list_scores):\n    return policy.chosen": "its inputs are of lists and of pairs",
    "def mine(policy, *, tau=1.0):\n    return policy.chosen": "option 'tau' needs a type of preftree.losses.options",
    "def mine(policy, *, tau: Positive):\n    return policy.chosen": "option 'tau' needs a type .* and a default",
    "def mine(policy, *, tau: Positive = 0):\n    return policy.chosen": "tau must be > 0, got 0",
    "def mine(policy, *, tau: 'Nothing' = 0):\n    return policy.chosen": "name 'Nothing' is not defined",
    "def mine(policy):\n    return policy.chosen.mean()": r"one value per pair, .* shape \[2\], got shape \[\]",
    "def mine(policy):\n    return policy.chosen[:, None]": r"got shape \[2, 1\]",
    "def mine(policy):\n    return 0.0": "got a float",
    "def mine(policy):\n    return policy.best": r"raised AttributeError \(.*\) on two made-up pairs; fix the function",
    "raise OSError('no disk')": r"cannot be imported, it raised OSError \(no disk\)",
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.items(), ids=WRONG.values())
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        bind_loss(written(tmp_path, text))
    assert str(caught.value).startswith("loss '") and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.py does not exist"):
        bind_loss(f"{tmp_path}/nowhere.py:mine")
    with pytest.raises(ConfigError, match="loss must be one of"):
        bind_loss("mine.py")


def test_a_policy_is_not_trained_by_rewards_nor_a_reward_model_by_log_probs(tmp_path: Path) -> None:
    words = ["model=m", "data=d", "out=o", f"loss={written(tmp_path, DPO)}"]
    with pytest.raises(
        ConfigError, match="'policy' is no input of a loss of a reward model; inputs are ties, rewards, margins"
    ):
        bind_reward(load_config(RewardConfig, words))


def test_a_value_of_another_shape_is_refused_in_the_run_too(tmp_path: Path) -> None:
    """As long as the made-up examples are, so that it is seen on others."""
    loss = bind_loss(written(tmp_path, "def mine(policy):\n    return policy.chosen[:2]"))
    with pytest.raises(ConfigError, match=r"a tensor of shape \[3\], got shape \[2\]"):
        loss(example_inputs(3)["policy"])


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    (tmp_path / "tempered.py").write_text(code)
    name = f"{tmp_path}/tempered.py:tempered"
    inputs = {key: example_inputs()[key] for key in ("policy", "ref")}
    assert torch.equal(bind_loss(name)(**inputs), bind("dpo", {})(**inputs))
    twice = bind_loss(name, {"tau": 2, "beta": 0.2})(**inputs)
    torch.testing.assert_close(twice, 2 * bind("dpo", {})(**inputs))
    shown = CliRunner().invoke(app, ["losses", name], env={"COLUMNS": "120"}, catch_exceptions=False)
    assert "DPO's loss of the gap divided by tau" in shown.stdout and "d loss / d delta" in shown.stdout


def test_a_loss_that_ends_the_program_in_the_middle_of_a_run_is_one_sentence(place: Path) -> None:
    """It passes the made-up pairs, and raises in the run: the state before the step is kept."""
    text = "import sys\n" + DPO.replace("    return", "    if len(policy.chosen) != 2: sys.exit(0)\n    return")
    with pytest.raises(TrainingError, match=r"loss '.*mine' raised SystemExit \(0\): it must return, and not end"):
        run_dpo(dpo_config(place, "run", f"loss={written(place, text)}", "max_steps=3"))
    assert (place / "run" / "checkpoints").exists()
    assert not (place / "run" / "model").exists()


@pytest.mark.parametrize("text", ["sys.exit(0)", "def mine(policy, *, beta: sys.exit(0) = 1): pass"])
def test_an_import_that_ends_the_program_is_one_sentence(place: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be imported, it raised SystemExit \(0\)"):
        bind_loss(written(place, "import sys\n" + text))
