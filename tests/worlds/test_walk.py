import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from preftree.errors import ModelError
from preftree.scoring.scorer import Scorer
from preftree.worlds.exact import kl_and_reward, kl_by_token
from preftree.worlds.grammar import WORDS, World
from preftree.worlds.sentiment import WORLDS, build_model, build_tokenizer
from preftree.worlds.walk import outcome_logps, walk_outcomes

TOKENIZER = build_tokenizer()
SHORT = World("short", ("the movie was", "movie was not bad"), min_words=1, max_words=2)


def gpt2() -> PreTrainedModel:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=14, n_embd=32, n_layer=2, n_head=2, n_positions=16, bos_token_id=None, eos_token_id=1
    )
    return GPT2LMHeadModel(config).eval()


def slow(model: PreTrainedModel, world: World, temperature: float) -> np.ndarray:
    """Every response on its own, without a cache."""
    rows = []
    for prompt in world.prompts:
        start = TOKENIZER(prompt)["input_ids"]
        row = []
        for response in world.responses():
            new = TOKENIZER(response)["input_ids"]
            ids = (start + new + [TOKENIZER.eos_token_id])[: len(start) + world.max_words]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0].double() / temperature
            logps = logits.log_softmax(-1)
            row.append(sum(logps[at - 1, ids[at]].item() for at in range(len(start), len(ids))))
        rows.append(row + [np.log1p(-np.exp(row).sum())])
    return np.array(rows)


@pytest.mark.parametrize("make", [gpt2, lambda: build_model(TOKENIZER, 0)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_walk_agrees_with_every_response_on_its_own(make, temperature: float) -> None:
    model = make()
    logps = outcome_logps(model, TOKENIZER, SHORT, temperature=temperature)
    assert logps.shape == (2, SHORT.num_outcomes)
    np.testing.assert_allclose(logps, slow(model, SHORT, temperature), atol=2e-5)
    np.testing.assert_allclose(np.exp(logps).sum(axis=1), 1, atol=1e-12)


def test_the_walk_is_right_for_the_world_of_varied_lengths() -> None:
    model, world = build_model(TOKENIZER, 2), WORLDS["varied"]
    logps = outcome_logps(model, TOKENIZER, world)
    assert logps.shape == (3, 12 + 12**2 + 12**3 + 12**4 + 1)
    np.testing.assert_allclose(np.exp(logps).sum(axis=1), 1, atol=1e-12)
    texts = ("good", "good bad", "awful awful", "the movie was", "not very good plot", "awful " * 4)
    for row, prompt in zip(logps, world.prompts, strict=True):
        for text in texts:
            assert row[world.outcome(text)] == pytest.approx(alone(model, prompt, text, world), abs=2e-5)


def alone(model: PreTrainedModel, prompt: str, text: str, world: World) -> float:
    """One response without a cache, its end included where it has one."""
    start, new = TOKENIZER(prompt)["input_ids"], TOKENIZER(text)["input_ids"]
    ids = (start + new + [TOKENIZER.eos_token_id])[: len(start) + world.max_words]
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(logps[at - 1, ids[at]].item() for at in range(len(start), len(ids)))


def loud(seed: int) -> PreTrainedModel:
    """An untrained model that prefers some tokens by far, those that leave the world among them."""
    model = build_model(TOKENIZER, seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    return model


def token_kl(policy: PreTrainedModel, reference: PreTrainedModel, prompt: str, world: World) -> float:
    """Sum over prefixes of the probability of the prefix times the KL of its next token, each by a plain forward."""
    start, words = TOKENIZER(prompt)["input_ids"], TOKENIZER(" ".join(WORDS))["input_ids"]
    total, level = 0.0, [((), 0.0)]
    for _ in range(world.max_words):
        below = []
        for prefix, logp in level:
            ids = torch.tensor([start + list(prefix)])
            with torch.no_grad():
                ours, theirs = (m(input_ids=ids).logits[0, -1].double().log_softmax(0) for m in (policy, reference))
            total += float(np.exp(logp) * (ours.exp() * (ours - theirs)).sum())
            below += [((*prefix, word), logp + ours[word].item()) for word in words]
        level = below
    return total


def test_a_kl_tells_apart_what_leaves_the_world() -> None:
    policy, reference = loud(3), loud(4)
    ours, theirs = (walk_outcomes(model, TOKENIZER, SHORT) for model in (policy, reference))
    exact = np.mean([token_kl(policy, reference, prompt, SHORT) for prompt in SHORT.prompts])
    assert kl_by_token(ours, theirs) == pytest.approx(exact, rel=1e-4)
    np.testing.assert_allclose(np.exp(ours.exits).sum(axis=1), np.exp(ours.logps[:, -1]), atol=1e-12)
    assert ours.exits.shape == (2, 2 * (1 + 12))
    lumped = kl_and_reward(ours.logps, theirs.logps, np.zeros(ours.logps.shape)).kl
    assert np.exp(ours.logps[:, -1]).max() > 0.1 and lumped < 0.98 * exact
    assert kl_by_token(ours, ours) == 0


def test_the_size_of_a_batch_changes_nothing() -> None:
    world = World("w", SHORT.prompts, min_words=3, max_words=3)
    model = build_model(TOKENIZER, 0)
    whole = outcome_logps(model, TOKENIZER, world)
    for batch_size in (1, 30, 100):
        np.testing.assert_allclose(outcome_logps(model, TOKENIZER, world, batch_size=batch_size), whole, atol=2e-5)


def test_a_model_that_is_set_up_to_score_trees_is_walked_all_the_same() -> None:
    model = build_model(TOKENIZER, 0)
    before = outcome_logps(model, TOKENIZER, SHORT)
    Scorer(model)
    np.testing.assert_allclose(outcome_logps(model, TOKENIZER, SHORT), before, atol=2e-5)


def test_a_tokenizer_that_splits_words_is_refused() -> None:
    letters = Tokenizer(WordLevel({"<eos>": 0, "<unk>": 1}, unk_token="<unk>"))
    letters.pre_tokenizer = Split("", "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ModelError, match="'movie' is 5 tokens"):
        outcome_logps(
            build_model(TOKENIZER, 0), PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<eos>"), SHORT
        )
