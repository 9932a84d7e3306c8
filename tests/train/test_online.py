"""PPO and RLOO on small real models: against a slow oracle, whatever the cut, and resumed to the bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from preftree.config.load import load_config
from preftree.config.online import PUBLISHED, OnlineConfig, PpoConfig, RlooConfig
from preftree.data.prompts import open_prompts
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import CheckpointError, ConfigError, DataError, HalfwayError, JudgeError, TrainingError
from preftree.evaluate.along_training import Measuring, measure_run
from preftree.losses.rl.advantages import gae
from preftree.models.load import load_model, load_tokenizer
from preftree.models.reward_model import load_reward_model
from preftree.report.page import run_page
from preftree.run_folder.reader import read_run
from preftree.scoring.critic import Critic
from preftree.scoring.reward_scorer import RewardScorer
from preftree.scoring.scorer import Scorer
from preftree.scoring.vocabulary import head_entropy, head_of
from preftree.storage.checkpoint import list_checkpoints
from preftree.train.dpo import run_dpo
from preftree.train.loop import Outcome
from preftree.train.policy import ReferenceModel
from preftree.train.ppo import run_ppo, run_rloo
from preftree.train.rollouts import iteration as online
from preftree.train.rollouts.learner import Learner, score
from preftree.train.rollouts.mixed_in import MixedIn
from preftree.train.rollouts.prompts import RunPrompts
from preftree.train.rollouts.rollout import Rollout, prompts_of
from support.models import tiny_llama
from support.rewards import reward_model
from support.small_runs import dpo_config, load_trained, make_model, make_pairs, rows_of
from support.tokenizers import chat_tokenizer

REWARD = """def vowels(prompt, response):
    return sum(letter in "aeiou" for letter in response) / 4
"""
PROMPTS = ("good plot ->", "1: bad", "the movie was", "1: bad", "very")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 8)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    (folder / "vowels.py").write_text(REWARD)
    return folder


def config_of(place: Path, kind: str, out: str, *words: str) -> OnlineConfig:
    base = {
        "model": place / "model",
        "data": place / "prompts.jsonl",
        "reward": f"{place / 'vowels.py'}:vowels",
        "out": place / out,
        "cache": place / "cache",
        "batch_size": 8,
        "samples_per_prompt": 2,
        "minibatch_size": 4,
        "max_new_tokens": 6,
        "max_steps": 3,
        "lr": "1e-3",
        "warmup_steps": 0,
        "threads": 1,
    }
    given = {word.partition("=")[0] for word in words}
    told = [f"{name}={value}" for name, value in base.items() if name not in given]
    return load_config(PpoConfig if kind == "ppo" else RlooConfig, [*told, *words])


def run(config: OnlineConfig) -> Outcome:
    return run_ppo(config) if isinstance(config, PpoConfig) else run_rloo(config)


def learner_of(place: Path, kind: str, *words: str) -> Learner:
    """A learner whose optimisers are plain SGD of rate 1: an update is its gradient."""
    config = config_of(place, kind, "unused", *words)
    model, tokenizer = load_model(place / "model"), load_tokenizer(place / "model")
    scorer, frozen = Scorer(model), Scorer(load_model(place / "model"))
    with torch.no_grad():  # a policy that has left its reference
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    critic = None
    if isinstance(config, PpoConfig):
        module = Critic(scorer, shared=config.critic == "shared")
        torch.nn.init.normal_(module.head.weight, generator=torch.Generator().manual_seed(5))
        critic = (module, torch.optim.SGD(module.parameters(), lr=1.0))
    prompts = open_prompts(str(place / "prompts.jsonl"), tokenizer)
    return Learner(
        config=config,
        scorer=scorer,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        critic=critic,
        reference=ReferenceModel(frozen, "", False, False, ""),
        tokenizer=tokenizer,
        data=RunPrompts(prompts, None, config, num_steps=3, warmup=0),
        rewards=lambda prompts, texts: np.array([len(text) % 3 for text in texts], float),
    )


def plain(model: PreTrainedModel, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, entropies and last hidden states at every response token, sequence by sequence, by transformers."""
    logps, entropies, hidden = [], [], []
    for sequence, count in zip(rollout.sequences, rollout.count_R.tolist(), strict=True):
        ids = torch.from_numpy(sequence.ids.astype(np.int64))[None]
        out = model(input_ids=ids, use_cache=False, output_hidden_states=True)
        all_logps = out.logits[0, :-1].log_softmax(-1)[-count:]
        logps.append(all_logps.gather(1, ids[0, -count:, None])[:, 0])
        entropies.append(-(all_logps.exp() * all_logps).sum(1))
        hidden.append(out.hidden_states[-1][0, :-1][-count:])
    return torch.cat(logps), torch.cat(entropies), torch.cat(hidden)


def copy_of(place: Path, scorer: Scorer) -> PreTrainedModel:
    """The same weights in a model that knows nothing of trees."""
    twin = load_model(place / "model")
    twin.load_state_dict(scorer.model.state_dict())
    return twin


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ppo", ("critic=shared", "entropy_coef=.3", "whiten_advantages=false", "vf_coef=.7")),
        ("ppo", ("critic=separate", "gamma=.9")),
        ("rloo", ()),
        *(("rloo", (f"method={name}", "kl_coef=.1", "entropy_coef=.1")) for name in PUBLISHED),
    ],
)
def test_an_update_is_the_gradient_of_the_padded_slow_way(place: Path, kind: str, words: tuple[str, ...]) -> None:
    learner = learner_of(place, kind, "max_grad_norm=null", "micro_batch_tokens=40", "minibatch_size=null", *words)
    config = learner.config
    twin, frozen = copy_of(place, learner.scorer), learner.reference.scorer.model
    rows = prompts_of(0, num_prompts=5, per_iteration=4, seed=0)
    rollout = learner.sample(learner.data.prompts, rows, 2, 0)
    batch = learner.lay_out(rollout, np.arange(8))
    assert len(batch.micros) > 1
    scored = score(learner, rollout, [batch])
    logps, entropies, hidden = plain(twin, rollout)
    with torch.no_grad():
        ref, _, _ = plain(copy_of(place, learner.reference.scorer), rollout)
    for ours, theirs in ((scored.policy, logps), (scored.entropy, entropies), (scored.ref, ref)):
        torch.testing.assert_close(ours, theirs.detach().double(), rtol=0, atol=2e-5)
    assert frozen is not twin

    counts = torch.from_numpy(rollout.count_R)
    rewards = torch.from_numpy(rollout.rewards_R)
    targets, _ = online.aim(config, scored, rewards, counts, kl_coef=0.1)
    kl = logps.detach() - ref
    starts = [0, *counts.cumsum(0).tolist()]
    if isinstance(config, PpoConfig):
        module = learner.critic[0] if learner.critic else None
        assert module is not None
        values = hidden.detach() @ module.head.weight[0] + module.head.bias
        values = values if config.critic == "separate" else hidden @ module.head.weight[0] + module.head.bias
        given = -0.1 * kl.double()
        for place_, (stop, reward) in enumerate(zip(starts[1:], rewards.tolist(), strict=True)):
            given[stop - 1] += reward
            assert starts[place_] < stop
        advantages, returns = gae(given, values.detach().double(), counts, gamma=config.gamma, lam=config.lam)
        if config.whiten_advantages:
            advantages = (advantages - advantages.mean()) / advantages.std(correction=0)
        loss = -(advantages.float() * (logps - logps.detach()).exp()).mean()
        loss = loss + config.vf_coef * 0.5 * (values - returns.float()).square().mean()
    else:
        in_reward = config.method == "rloo"
        costs = [0.1 * float(kl[starts[i] : starts[i + 1]].sum()) if in_reward else 0.0 for i in range(8)]
        whole = [float(rewards[i]) - costs[i] for i in range(8)]
        loss = torch.zeros(())
        for i in range(8):
            other = whole[i ^ 1]
            mean = (whole[i] + other) / 2
            std = (((whole[i] - mean) ** 2 + (other - mean) ** 2) / 1) ** 0.5
            advantage = {"rloo": whole[i] - other, "dr_grpo": whole[i] - mean}.get(
                config.method, (whole[i] - mean) / (std + 1e-4)
            )
            own = logps[starts[i] : starts[i + 1]]
            share = {
                "rloo": 1 / 8,
                "dr_grpo": 1 / (8 * config.max_new_tokens),
                "dapo": 1 / len(logps),
                "cispo": 1 / len(logps),
            }.get(config.method, 1 / (8 * len(own)))
            # At a ratio of 1 every surrogate descends as -A log p does, with the weight of its token.
            loss = loss - share * advantage * own.sum()
            if not in_reward:
                loss = loss + 0.1 * share * ((own - ref[starts[i] : starts[i + 1]]).detach() * own).sum()
    loss = loss - config.entropy_coef * entropies.mean()
    twin.zero_grad()
    loss.backward()

    before = {name: value.detach().clone() for name, value in learner.scorer.model.named_parameters()}
    found = online.update(learner, rollout, batch, targets, first=True, name="step 1")
    assert found is not None
    assert found["ratio_max"] == 1.0
    assert found["clip_fraction"] == 0.0
    assert found["approx_kl"] == 0.0
    for name, theirs in twin.named_parameters():
        ours = before[name] - dict(learner.scorer.model.named_parameters())[name].detach()
        expected = torch.zeros_like(ours) if theirs.grad is None else theirs.grad
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_values_stand_before_their_tokens(place: Path) -> None:
    """Answers to one prompt share the prompt's value, and each value is the head on the hidden state one token back."""
    learner = learner_of(place, "ppo", "critic=separate")
    assert learner.critic is not None
    critic = learner.critic[0]
    assert critic.trunk is not None
    rollout = learner.sample(learner.data.prompts, np.array([0, 2]), 2, 0)
    found = score(learner, rollout, [learner.lay_out(rollout, np.arange(4))]).values
    _, _, hidden = plain(copy_of(place, critic.trunk), rollout)
    expected = (hidden @ critic.head.weight[0] + critic.head.bias).detach().double()
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    first = rollout.places([0])[0], rollout.places([1])[0]
    assert float(found[first[0]]) == pytest.approx(float(found[first[1]]), rel=1e-6)  # rows of one product


def test_entropy_is_differentiated_as_autograd_does_it(place: Path) -> None:
    scorer = Scorer(load_model(place / "model").double())
    learner = learner_of(place, "rloo")
    rollout = learner.sample(learner.data.prompts, np.array([0]), 2, 0)
    trees = learner.lay_out(rollout, np.arange(2)).micros[0].batch
    weights = torch.linspace(-1, 2, len(trees.source_S), dtype=torch.float64)
    head = head_of(scorer, trees)
    parameters = [p for p in scorer.model.parameters() if p.requires_grad]
    ours = torch.autograd.grad((weights * head_entropy(head)).sum(), parameters)
    head = head_of(scorer, trees)
    logps = (head.hidden_SD @ head.weight_VD.T).log_softmax(1)
    theirs = torch.autograd.grad((weights * -(logps.exp() * logps).sum(1)).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "words"), [("ppo", ("critic=separate",)), ("rloo", ("ppo_epochs=2",))])
def test_the_cut_into_micro_batches_changes_nothing(place: Path, kind: str, words: tuple[str, ...]) -> None:
    rows = []
    for budget in (40, 4096):
        config = config_of(place, kind, f"cut-{kind}-{budget}", f"micro_batch_tokens={budget}", *words)
        assert run(config).progress.step == 3
        rows.append(rows_of(Path(config.out)))
    for few, many in zip(*rows, strict=True):
        assert few.keys() == many.keys()
        for name in few.keys() - {"tokens"}:
            assert few[name] == pytest.approx(many[name], rel=2e-3, abs=2e-5), name


def test_a_first_ratio_that_is_not_one_stops_the_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = online.score

    def moved(*args: Any) -> Any:
        scored = real(*args)
        return replace(scored, policy=scored.policy + 1e-3)

    monkeypatch.setattr(online, "score", moved)
    config = config_of(place, "ppo", "moved")
    with pytest.raises(TrainingError, match=r"logratio to the sampling policy is 0.001 nats"):
        run(config)


def stop_during(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], None]:
    real = online.update

    def update(*args: Any, **options: Any) -> Any:
        if options["name"] == f"step {step}" and options["first"]:
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **options)

    monkeypatch.setattr(online, "update", update)
    return lambda: monkeypatch.setattr(online, "update", real)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ppo", ("kl_target=.5", "kl_horizon=20", "normalize_rewards=true", "clip_rewards=2", "schedule=linear")),
        ("ppo", ("critic=shared", "max_approx_kl=.01", "critic_lr=3e-3")),
        ("rloo", ("method=grpo", "normalize_rewards=true", "temperature=.7")),
    ],
)
def test_a_stopped_run_goes_on_to_the_bit(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: tuple[str, ...]
) -> None:
    name = f"{kind}-{len(words)}"
    straight = config_of(place, kind, f"straight-{name}", *words)
    assert run(straight).signum == 0
    stopped = config_of(place, kind, f"stopped-{name}", *words)
    for step in (1, 2):
        undo = stop_during(monkeypatch, step)
        outcome = run(stopped)
        assert (outcome.signum, outcome.progress.step) == (signal.SIGTERM, step)
        undo()
    assert run(stopped).signum == 0
    assert rows_of(Path(stopped.out)) == rows_of(Path(straight.out))
    last = [list_checkpoints(Path(config.out) / "checkpoints")[-1] for config in (straight, stopped)]
    names = {path.name for path in last[0].glob("*.safetensors")}
    assert ("critic.safetensors" in names) == ("critic_optimizer.safetensors" in names) == (kind == "ppo")
    for file in names:
        assert (last[0] / file).read_bytes() == (last[1] / file).read_bytes(), file
    states = [json.loads((path / "meta.json").read_text())["meta"]["progress"] for path in last]
    assert states[0]["state"] == states[1]["state"]
    if "normalize_rewards=true" in words:
        assert states[0]["state"]["rewards_seen"] == 24
    if "kl_target=.5" in words:
        assert states[0]["state"]["kl_coef"] < 0.05


def test_a_step_that_breaks_off_half_way_is_not_saved(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = online.update, []

    def update(*args: Any, **options: Any) -> Any:
        calls.append(options["name"])
        if calls.count("step 2") == 2:
            raise TrainingError("nothing is finite")
        return real(*args, **options)

    monkeypatch.setattr(online, "update", update)
    with pytest.raises(HalfwayError, match="after 1 updates of this step"):
        run(config_of(place, "rloo", "halfway", "save_every=1", "ppo_epochs=1"))
    assert [path.name for path in list_checkpoints(place / "halfway" / "checkpoints")] == ["step-000001"]


def test_the_run_learns_reports_and_can_be_measured(place: Path) -> None:
    (place / "held.jsonl").write_text('{"prompt": "the plot"}\n{"prompt": "not the"}\n')
    words = (
        "max_steps=12",
        "lr=5e-3",
        "kl_coef=.01",
        f"eval_data={place / 'held.jsonl'}",
        "eval_every=6",
        "snapshots=3",
    )
    config = config_of(place, "ppo", "learns", "batch_size=32", "minibatch_size=16", "samples_per_prompt=4", *words)
    run(config)
    rows = [row for row in rows_of(place / "learns") if "split" not in row]
    assert float(rows[-1]["reward"]) > float(rows[0]["reward"]) + 0.1
    assert rows[0]["kl"] == rows[0]["kl_sampled"] == 0.0
    assert float(rows[-1]["kl"]) > 0.05
    wanted = {"reward_std", "penalised_return", "value_loss", "explained_variance", "entropy", "clip_fraction"}
    wanted |= {"approx_kl", "ratio_max", "advantage_mean", "advantage_std", "response_tokens", "finished", "kl_coef"}
    assert wanted <= rows[0].keys()
    clock = next(row for row in rows_of(place / "learns", clock=True) if "split" not in row)
    assert {"seconds_generating", "seconds_scoring", "seconds_updating"} <= clock.keys()
    evaluations = [row for row in rows_of(place / "learns") if row.get("split") == "eval"]
    assert [row["step"] for row in evaluations] == [0, 6, 12]
    assert {"reward_low", "kl_high", "responses"} <= evaluations[0].keys()
    found = read_run(place / "learns")
    assert found.recipe.name == "ppo"
    page = run_page([found])
    assert "PPO run" in page
    assert "Explained variance" in page
    assert "reward of held-out answers" in page.lower()
    measured = measure_run(found, Measuring(f"{place / 'vowels.py'}:vowels", samples=8))
    steps = [point.step for point in measured.frontier]
    assert steps == [0, 1, 3, 9, 12]
    assert measured.frontier[0].kl == pytest.approx(0, abs=1e-6)
    assert measured.frontier[-1].reward > measured.frontier[0].reward
    assert load_trained(place / "learns").config.vocab_size > 0
    assert "optimised by PPO for the reward" in (place / "learns" / "model" / "README.md").read_text()


def test_an_adapter_is_trained_against_the_model_without_it(place: Path) -> None:
    words = ("lora.r=2", "critic=shared", "max_steps=2", "lr=1e-2")
    run(config_of(place, "ppo", "lora", *words))
    assert (place / "lora" / "model" / "adapter_model.safetensors").exists()
    rows = rows_of(place / "lora")
    assert rows[0]["kl"] == 0.0
    assert float(rows[1]["kl"]) > 0
    assert json.loads((place / "lora" / "summary.json").read_text())["models_in_memory"] == 1


def test_a_preference_run_never_samples(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DPO's steps, its evaluations and its reference generate nothing; PPO's do."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("sampled")

    monkeypatch.setattr(GenerationMixin, "generate", refuse)
    outcome = run_dpo(dpo_config(place, "dpo", "max_steps=2", "eval_data=.25"))
    assert outcome.progress.step == 2
    with pytest.raises(AssertionError, match="sampled"):
        run(config_of(place, "ppo", "samples"))


def test_rewards_that_are_none_are_named(place: Path) -> None:
    learner = learner_of(place, "rloo")

    def bad(prompts: Sequence[Any], texts: Sequence[str]) -> np.ndarray:
        return np.array([0.0, np.nan, 0.0, 0.0])

    with pytest.raises(JudgeError, match=r"a response to .*prompts.jsonl:1; fix the reward"):
        replace(learner, rewards=bad).sample(learner.data.prompts, np.array([0, 1]), 2, 0)


def test_a_reward_that_ends_the_program_ends_the_run_with_a_sentence(place: Path) -> None:
    (place / "leaves.py").write_text("import sys\ndef reward(prompt, response):\n    sys.exit(0)\n")
    with pytest.raises(JudgeError, match=r"raised SystemExit \(0\): it must return, and not end the program on the"):
        run(config_of(place, "rloo", "leaves", f"reward={place / 'leaves.py'}:reward"))
    assert not (place / "leaves" / "model").exists()


def test_sampled_special_tokens_are_judged_and_counted(place: Path) -> None:
    """A chat model that now and then samples one in the middle of a response, under a reward model."""
    tokenizer = chat_tokenizer()
    folder = place / "chat"
    model = tiny_llama(len(tokenizer))
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reward_model(folder).save_pretrained(place / "rm")
    tokenizer.save_pretrained(place / "rm")
    turns = [{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS[:2]]
    (place / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    words = (f"model={folder}", f"data={place / 'turns.jsonl'}", f"reward=rm:{place / 'rm'}", "max_new_tokens=40")
    run(config_of(place, "rloo", "special", *words, f"eval_data={place / 'turns.jsonl'}"))
    rows = rows_of(place / "special")
    assert sum(float(row["special_tokens"]) for row in rows if "split" not in row) > 0
    assert all(0 <= float(row["special_tokens"]) <= 1 for row in rows)


def test_a_critic_that_starts_from_a_reward_model_has_its_numbers(place: Path) -> None:
    """The value of the state after a prompt is what transformers' classifier gives for the prompt."""
    model = reward_model(place / "model")
    model.save_pretrained(place / "rm-critic")
    load_tokenizer(place / "model").save_pretrained(place / "rm-critic")
    words = (f"critic_start={place / 'rm-critic'}", "max_steps=1")
    learner = learner_of(place, "ppo", *words)
    start = RewardScorer(load_reward_model(place / "rm-critic"))
    critic = Critic(learner.scorer, shared=False, start=start)
    rollout = learner.sample(learner.data.prompts, np.array([0, 2]), 2, 0)
    found = score(
        replace(learner, critic=(critic, learner.optimizer)), rollout, [learner.lay_out(rollout, np.arange(4))]
    )
    assert found.values is not None
    for response, prompt in enumerate((0, 0, 2, 2)):
        ids = torch.tensor([list(learner.data.prompts.ids[prompt])])
        expected = float(model(input_ids=ids).logits[0, 0].detach())
        assert float(found.values[rollout.places([response])[0]]) == pytest.approx(expected, abs=1e-5)
    config = config_of(place, "ppo", "from-rm", *words)
    run(config)
    assert (place / "from-rm" / "model").exists()
    with pytest.raises(CheckpointError, match="start of the critic"):
        run(config_of(place, "ppo", "from-rm", "max_steps=2"))


def test_demonstrations_mixed_in_add_their_gradient(place: Path) -> None:
    """An update with them is one without them plus the gradient of their mean loss of a token, by transformers."""
    rows = [{"prompt": "good", "completion": " plot was fine"}, {"prompt": "bad", "completion": " movie"}]
    (place / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("minibatch_size=null", "max_grad_norm=null", "critic=shared", "vf_coef=.1")
    config = config_of(place, "ppo", "unused", *given, f"ptx_data={place / 'shown.jsonl'}", "ptx_coef=2.0")
    store, _ = tokenize_file(
        str(place / "shown.jsonl"), load_tokenizer(place / "model"), kind="demonstration", cache_dir=place / "cache"
    )
    updates = []
    for mixed_in in (None, MixedIn(store, 2.0, 64, 0)):
        learner = replace(learner_of(place, "ppo", *given), config=config, mixed_in=mixed_in)
        twin = copy_of(place, learner.scorer)
        before = {name: value.detach().clone() for name, value in learner.scorer.model.named_parameters()}
        rollout = learner.sample(learner.data.prompts, np.array([0, 1]), 4, 0)
        batch = learner.lay_out(rollout, np.arange(8))
        scored = score(learner, rollout, [batch])
        counts, rewards = torch.from_numpy(rollout.count_R), torch.from_numpy(rollout.rewards_R)
        targets, _ = online.aim(config, scored, rewards, counts, kl_coef=0.1)
        figures = online.update(learner, rollout, batch, targets, first=True, name="step 1")
        assert figures is not None
        after = dict(learner.scorer.model.named_parameters())
        updates.append({name: before[name] - after[name].detach() for name in before})
        if mixed_in is None:
            assert "ptx_loss" not in figures
            continue
        total = torch.zeros(())
        for sequence in [store[row].sequences[0] for row in (0, 1)]:  # each four times among eight rows
            ids = torch.from_numpy(sequence.ids.astype(np.int64))[None]
            logps = twin(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            total = total - logps[torch.from_numpy(sequence.scored[1:])].sum()
        mean = total / int(store.num_scored.sum())
        assert figures["ptx_loss"] == pytest.approx(float(mean.detach()), rel=1e-5)
        (2.0 * mean).backward()
        for name, parameter in twin.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(updates[1][name] - updates[0][name], gradient, rtol=1e-3, atol=2e-5)


def test_a_run_with_demonstrations_goes_on_to_the_bit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "texts.jsonl").write_text('{"text": "good plot"}\n{"text": "the movie was fine"}\n{"text": "very bad"}\n')
    words = (f"ptx_data={place / 'texts.jsonl'}", "critic=shared", "ptx_coef=.5")
    run(config_of(place, "ppo", "straight-ptx", *words))
    undo = stop_during(monkeypatch, 2)
    assert run(config_of(place, "ppo", "stopped-ptx", *words)).progress.step == 2
    undo()
    run(config_of(place, "ppo", "stopped-ptx", *words))
    assert rows_of(place / "stopped-ptx") == rows_of(place / "straight-ptx")
    assert all(float(row["ptx_loss"]) > 0 for row in rows_of(place / "straight-ptx"))
    long = (f"ptx_data={_long(place)}", *words[1:], "micro_batch_tokens=60")
    with pytest.raises(ConfigError, match="micro_batch_tokens must be at least"):
        run(config_of(place, "ppo", "small-ptx", *long))


def _long(place: Path) -> Path:
    (place / "long.jsonl").write_text(json.dumps({"text": "good plot " * 30}) + "\n")
    return place / "long.jsonl"


def test_prompts_go_on_through_new_orders() -> None:
    drawn = np.concatenate([prompts_of(i, num_prompts=5, per_iteration=4, seed=1) for i in range(10)])
    assert all(sorted(drawn[5 * epoch : 5 * epoch + 5].tolist()) == [0, 1, 2, 3, 4] for epoch in range(8))
    assert len({tuple(drawn[5 * epoch : 5 * epoch + 5].tolist()) for epoch in range(8)}) > 4


@pytest.mark.parametrize(
    ("kind", "word", "sentence"),
    [
        ("ppo", "clip=1.5", "clip must be < 1, got 1.5"),
        ("ppo", "cliprange=.2", "unknown option 'cliprange'; here it is called clip"),
        ("ppo", "lamb=.9", "unknown option 'lamb'; did you mean 'lam'?"),
        ("rloo", "lam=.9", "option 'lam' belongs to `preftree ppo`"),
        ("rloo", "num_generations=4", "unknown option 'num_generations'; here it is called samples_per_prompt"),
        ("rloo", "samples_per_prompt=1", "samples_per_prompt must be >= 2: the other responses to a prompt are"),
        ("ppo", "batch_size=9", "batch_size counts responses and must be a multiple of samples_per_prompt=2, got 9"),
        ("ppo", "minibatch_size=3", "minibatch_size must divide batch_size=8, got 3"),
        ("ppo", "eval_every=3", "eval_every needs eval_data: a file of prompts that are not trained on"),
        ("ppo", "lora.r=4", "lora trains an adapter alone, and critic=separate a whole model; set critic=shared"),
        ("ppo", "compile=true", "compile: fused layers cannot sample; leave compile out"),
        ("ppo", "temperature=0.0", "temperature must be > 0, got 0.0"),
    ],
)
def test_options_are_checked(place: Path, kind: str, word: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(place, kind, "never", word)
    assert str(caught.value).startswith(sentence)


def test_a_target_needs_a_coefficient(place: Path) -> None:
    with pytest.raises(ConfigError, match="set kl_coef above 0"):
        config_of(place, "ppo", "never", "kl_target=2.0", "kl_coef=0.0")


def test_what_cannot_start_says_so(place: Path) -> None:
    with pytest.raises(ConfigError, match="micro_batch_tokens must be at least 17"):
        run(config_of(place, "ppo", "small", "micro_batch_tokens=16"))
    with pytest.raises(DataError, match="does not exist"):
        run(config_of(place, "ppo", "nothing", f"data={place / 'none.jsonl'}"))
    config = config_of(place, "rloo", "told", "max_steps=1")
    run(config)
    with pytest.raises(CheckpointError, match=r"kl_coef was 0\.05, is 0\.1"):
        run(config_of(place, "rloo", "told", "max_steps=2", "kl_coef=.1"))
