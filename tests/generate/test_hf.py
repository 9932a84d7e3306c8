import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from preftree.errors import ConfigError
from preftree.generate.hf import Sampling, draw, generate, uniforms
from preftree.scoring.scorer import Scorer
from preftree.worlds.sentiment import build_model, build_tokenizer
from support.models import longrope

TOKENIZER = build_tokenizer()


def llama() -> PreTrainedModel:
    return build_model(TOKENIZER, 0)


def gpt2() -> PreTrainedModel:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=14, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=None, eos_token_id=1
    )
    return GPT2LMHeadModel(config).eval()


def prompts(num: int, longest: int = 9) -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(2, 14, size=generator.integers(1, longest + 1)).tolist() for _ in range(num)]


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_the_same_text_for_any_batch_size_and_any_cut(make, temperature: float, top_p: float) -> None:
    model, rows = make(), prompts(13)
    sampling = Sampling(9, temperature, top_p, seed=5)
    alone = generate(model, TOKENIZER, rows, sampling, batch_size=1)
    for batch_size in (4, 100):
        assert generate(model, TOKENIZER, rows, sampling, batch_size=batch_size) == alone
    cut = [
        *generate(model, TOKENIZER, rows[:9], sampling),
        *generate(model, TOKENIZER, rows[9:], sampling, first_row=9),
    ]
    assert cut == alone
    if temperature:
        assert generate(model, TOKENIZER, rows, Sampling(9, temperature, top_p, seed=6)) != alone


@pytest.mark.parametrize("make", [llama, gpt2])
def test_greedy_is_the_most_likely_token_of_a_plain_forward(make) -> None:
    model, rows = make(), prompts(6)
    for prompt, got in zip(rows, generate(model, TOKENIZER, rows, Sampling(8, temperature=0.0)), strict=True):
        ids = list(prompt)
        for _ in range(8):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == TOKENIZER.eos_token_id:
                break
        new = ids[len(prompt) :]
        assert got.finished == (new[-1] == TOKENIZER.eos_token_id)
        assert list(got.ids) == [token for token in new if token != TOKENIZER.eos_token_id]
        assert got.text == TOKENIZER.decode(list(got.ids))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7)])
def test_samples_follow_the_models_distribution(temperature: float, top_p: float) -> None:
    model, prompt, num = llama(), [5, 3, 6], 6000
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    mass = (6 * logits / temperature).softmax(-1).numpy()  # sharpened, since an untrained model is nearly uniform
    if top_p < 1:
        order = np.argsort(-mass, kind="stable")
        kept = order[: np.searchsorted(np.cumsum(mass[order]), top_p) + 1]
        mass = np.where(np.isin(np.arange(14), kept), mass, 0)
        mass /= mass.sum()
    u = torch.from_numpy(uniforms(0, np.arange(num), 0))
    drawn = draw((6 * logits).expand(num, -1), u, temperature, top_p).numpy()
    share = np.bincount(drawn, minlength=14) / num
    assert (share[mass == 0] == 0).all()
    np.testing.assert_array_less(np.abs(share - mass), 4 * np.sqrt(mass * (1 - mass) / num) + 1e-12)


def test_sampled_texts_have_the_frequencies_of_their_exact_probabilities() -> None:
    model, prompt, num = llama(), [5, 3, 6], 4000
    found = generate(model, TOKENIZER, [prompt] * num, Sampling(2), batch_size=1000)
    with torch.no_grad():
        first = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
        second = model(input_ids=torch.tensor([[*prompt, 8]])).logits[0, -1].softmax(-1)
    for word in (4, 9):
        chance = (first[8] * second[word]).item()
        share = sum(one.ids == (8, word) for one in found) / num
        assert share == pytest.approx(chance, abs=4 * (chance / num) ** 0.5)
    ended = sum(one.ids == () and one.finished for one in found) / num
    assert ended == pytest.approx(first[1].item(), abs=4 * (first[1].item() / num) ** 0.5)


def test_random_numbers_depend_on_seed_row_and_position_and_are_uniform() -> None:
    rows = np.arange(2000)
    block = np.stack([uniforms(3, rows, position) for position in range(20)])
    assert block.shape == (20, 2000)
    assert ((block >= 0) & (block < 1)).all()
    assert len(np.unique(block)) == block.size
    counts = np.histogram(block, 20, (0, 1))[0]
    assert np.abs(counts - 2000).max() < 5 * 2000**0.5
    along = np.corrcoef(block[:-1].ravel(), block[1:].ravel())[0, 1]
    across = np.corrcoef(block[:, :-1].ravel(), block[:, 1:].ravel())[0, 1]
    assert max(abs(along), abs(across)) < 4 / block.size**0.5
    assert not np.intersect1d(uniforms(4, rows, 0), block).size
    assert uniforms(3, rows[100:], 7).tolist() == block[7, 100:].tolist()


def test_a_token_without_mass_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, -1)
    assert draw(logits, torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64), 1.0, 1.0).tolist() == [1, 3, 3]


def test_the_models_own_generation_settings_do_not_apply() -> None:
    model, rows = llama(), prompts(5)
    before = generate(model, TOKENIZER, rows, Sampling(10, seed=1))
    assert model.generation_config is not None
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.suppress_tokens = [4, 5, 6, 7]
    settings = model.generation_config
    assert generate(model, TOKENIZER, rows, Sampling(10, seed=1)) == before
    assert model.generation_config is settings


def test_a_model_that_scores_trees_can_generate() -> None:
    model, rows = llama(), prompts(5)
    before = generate(model, TOKENIZER, rows, Sampling(10, seed=1))
    Scorer(model)
    assert generate(model, TOKENIZER, rows, Sampling(10, seed=1)) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1, got 0"),
        ({"max_new_tokens": 1, "temperature": -1.0}, "temperature must be >= 0"),
        ({"max_new_tokens": 1, "temperature": float("nan")}, "temperature must be >= 0"),
        ({"max_new_tokens": 1, "top_p": 0.0}, "top_p must be in"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**options)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match="prompt 8 has no tokens"):
        generate(llama(), TOKENIZER, [[3], []], Sampling(2), first_row=7)


def test_a_prompt_that_leaves_no_room_is_refused_where_the_model_would_break() -> None:
    asked = [[5, 6], [7] * 62]  # 64 learned positions; the last token drawn is no input
    assert len(generate(gpt2(), TOKENIZER, asked, Sampling(3))) == 2
    with pytest.raises(ConfigError, match="prompt 11 has 62 tokens, and with 4 new ones it would pass the 64"):
        generate(gpt2(), TOKENIZER, asked, Sampling(4), first_row=10)


def test_rows_on_both_sides_of_a_longrope_models_first_length() -> None:
    """Against the plain forward of all tokens so far, and transformers' own generate; no row crosses the 40 tokens."""
    model, rng = longrope(vocab=14), np.random.default_rng(0)
    rows = [rng.integers(2, 14, size=length).tolist() for length in (41, 3, 60, 33, 44, 32)]
    for prompt, got in zip(rows, generate(model, TOKENIZER, rows, Sampling(8, temperature=0.0)), strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + 8 and (len(ids) == len(prompt) or ids[-1] != TOKENIZER.eos_token_id):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=TOKENIZER.eos_token_id
        )
        assert theirs[0].tolist() == ids
        assert list(got.ids) == [token for token in ids[len(prompt) :] if token != TOKENIZER.eos_token_id]
    said = "prompt 1 has 34 tokens, and with 8 new ones it would pass the 40 beyond which .* lower max_new_tokens to 7"
    with pytest.raises(ConfigError, match=said):
        generate(model, TOKENIZER, [rows[0], rows[0][:34]], Sampling(8, temperature=0.0))
    generate(model, TOKENIZER, [rows[0], rows[0][:34]], Sampling(7, temperature=0.0))
