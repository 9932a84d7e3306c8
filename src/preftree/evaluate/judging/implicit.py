"""Implicit rewards of a DPO run for any prompts and responses: beta x (policy - reference log-prob), as a judge's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config
from preftree.data.rows.faults import RowFault
from preftree.data.tokens.budgets import Budgets
from preftree.data.tokens.encoder import make_encoder
from preftree.data.tokens.sampled_responses import encode_answers
from preftree.errors import ConfigError, DataError, JudgeError
from preftree.evaluate.along_training import load_reference
from preftree.losses.quantities import sum_responses
from preftree.models.load import load_tokenizer
from preftree.records import Text
from preftree.run_folder.reader import Run
from preftree.runtime.ranks import open_ranks
from preftree.train.policy import load_frozen
from preftree.tree.layout import TokenSequence
from preftree.tree.pack import plan_step


class ImplicitRewards:
    """A finished run's policy and reference: texts in, implicit rewards out."""

    def __init__(self, run: Run) -> None:
        """Load both models.

        Raises:
          DataError: the run is not finished, or not of pairs.
          ConfigError: its loss has no beta.
        """
        if not run.summary or run.recipe.name != "dpo":
            raise DataError(f"{run.path} holds no finished run of `preftree dpo`; give one, whose rewards are implicit")
        config = check_config(DpoConfig, run.config)
        if config.beta is None:
            raise ConfigError(f"loss {config.loss_label} of {run.path} has no beta, so its policy implies no reward")
        self._beta, self._config, self._place = config.beta, config, run.path
        with open_ranks() as ranks:
            self._policy, _ = load_frozen(str(run.path / "model"), config.model_copy(update={"compile": False}), ranks)
            self._reference = load_reference(run, config, ranks)
        self._tokenizer = load_tokenizer(run.path / "model")
        self._encoder = make_encoder(self._tokenizer)

    def __call__(self, prompts: Sequence[Text], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Implicit rewards; each prompt and response is rendered and cut as in training.

        Raises:
          JudgeError: a prompt cannot be rendered.
          ModelError: a text is longer than a model has positions for.
        """
        config = self._config
        lengths = Budgets(config.max_length, config.max_prompt_length, config.max_response_length)
        try:
            shown, answers, _ = encode_answers(
                self._tokenizer, self._encoder, prompts, responses, budgets=lengths, truncation=config.truncation
            )
        except RowFault as fault:
            raise JudgeError(f"run {self._place}: {fault}") from fault
        numbers: dict[bytes, int] = {}
        groups = [numbers.setdefault(ids.tobytes(), len(numbers)) for ids in shown]
        rows = [
            [TokenSequence(np.concatenate([ids, answer]), np.arange(len(ids) + len(answer)) >= max(len(ids), 1))]
            for ids, answer in zip(shown, answers, strict=True)
        ]
        rewards = np.zeros(len(rows))
        for sign, scorer in ((1, self._policy), (-1, self._reference)):
            room = max(config.micro_batch_tokens, *(2 * len(sequence.ids) for (sequence,) in rows))
            (plan,) = plan_step(rows, groups, budget=room, sharing=scorer.sharing)
            for micro in plan:
                with torch.no_grad():
                    batch = micro.batch.to(scorer.device)
                    sums = sum_responses(scorer(batch), batch.count_R).values
                rewards[list(micro.examples)] += sign * self._beta * sums.cpu().numpy()
        return rewards
