from pathlib import Path

import pytest
import torch

from preftree.evaluate.in_memory.after_training import run_recipe
from preftree.models.load import load_model, load_tokenizer
from preftree.run_folder.measured_file import read_measured
from support.small_runs import dpo_config, make_model, make_pairs


def test_token_rewards_of_a_run_are_beta_times_the_logratios_of_its_models(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 22)
    run_recipe(dpo_config(tmp_path, "run", "max_steps=4", "eval_data=.4", "beta=.3"))
    pairs = read_measured(tmp_path / "run" / "measured.json").token_rewards
    assert 2 <= len(pairs) <= 6
    tokenizer = load_tokenizer(tmp_path / "model")
    policy, reference = load_model(tmp_path / "run" / "model"), load_model(tmp_path / "model")
    for pair in pairs:
        for tokens in (pair.chosen, pair.rejected):
            text = "".join(token.text for token in tokens)
            ids = tokenizer(pair.prompt + text, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logps = [model(input_ids=ids).logits[0, :-1].double().log_softmax(-1) for model in (policy, reference)]
            each = [logp.gather(1, ids[0, 1:, None])[-len(tokens) :, 0] for logp in logps]
            rewards = (0.3 * (each[0] - each[1])).tolist()
            assert [token.reward for token in tokens] == pytest.approx(rewards, abs=1e-5)
            assert max(map(abs, rewards)) > 1e-4
