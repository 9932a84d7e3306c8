"""Answers of a run's model to a few prompts before and after its training, for people to read."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from preftree.errors import UserError
from preftree.evaluate.prompts import Prompts, some_of_a_part, some_of_a_set
from preftree.generate.hf import generate
from preftree.generate.protocol import Sampling
from preftree.run_folder.measured_file import Answered, read_measured, write_measured
from preftree.scoring.architecture import position_limit
from preftree.scoring.scorer import Scorer, evaluation_mode
from preftree.train.loop import Steps
from preftree.train.ppo import OnlineSteps
from preftree.train.reward import RewardTask
from preftree.train.step.supervised import SupervisedSteps

log = logging.getLogger("preftree")

LONGEST_PROMPT = 1024
"""Most tokens of a prompt that is answered."""

LONGEST_ANSWER = 128
"""Most tokens of an answer."""

_NO_REASON_TO_FAIL = (UserError, torch.OutOfMemoryError)
"""What leaves the answers out and lets the run go on, or end well."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Prompts of a run, and the model that answers them.

    Attributes:
      scorer: The model, which training changes.
      tokenizer: Its tokenizer.
      prompts: The prompts.
      held_out: Whether they are held out.
      most_tokens: Most tokens of an answer.
      out: The run's folder.
    """

    scorer: Scorer
    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    held_out: bool
    most_tokens: int
    out: Path

    def answer(self) -> list[str]:
        """The answer to each prompt, the most likely token each time; one that is cut ends in an ellipsis.

        Raises:
          UserError: the model cannot generate.
        """
        sampling = Sampling(self.most_tokens, temperature=0.0)
        with evaluation_mode(self.scorer):
            answers = generate(self.scorer.model, self.tokenizer, self.prompts.ids, sampling)
        return [answer.text if answer.finished else f"{answer.text} …" for answer in answers]


def open_questions(steps: Steps) -> Questions | None:
    """A few prompts of a run, held out where any are.

    Returns:
      None where the options want none, the run trains a reward model, or no prompt is short enough.
    """
    if isinstance(steps, OnlineSteps):
        learner, data = steps.learner, steps.learner.data
        config, scorer, tokenizer = learner.config, learner.scorer, learner.tokenizer
        limit, held_out = config.max_new_tokens, data.held_out is not None
        prompts = some_of_a_set(data.held_out or data.prompts, tokenizer, most=4 * config.answers, seed=config.seed)
    elif isinstance(steps, SupervisedSteps) and not isinstance(steps.task, RewardTask):
        run, data = steps.run, steps.data
        config, scorer, tokenizer = run.config, run.scorer, run.tokenizer
        limit, held_out = config.max_response_length or LONGEST_ANSWER, data.held_out is not None
        prompts = some_of_a_part(data.held_out or data.train, tokenizer, most=4 * config.answers, seed=config.seed)
    else:
        return None
    most_tokens = min(limit, LONGEST_ANSWER)
    positions = position_limit(scorer.model, kinds=("dynamic",))
    longest = LONGEST_PROMPT if positions is None else min(LONGEST_PROMPT, positions - most_tokens)
    short = [row for row, ids in enumerate(prompts.ids) if 0 < len(ids) <= longest][: config.answers]
    if not short:
        return None
    kept = Prompts([prompts.ids[row] for row in short], [prompts.texts[row] for row in short])
    return Questions(scorer, tokenizer, kept, held_out, most_tokens, Path(config.out))


class BeforeAndAfter:
    """Answers before training, which are kept with those after it."""

    def __init__(self, steps: Steps) -> None:
        """Answer with the model as training finds it; a model that cannot is named in the log."""
        self._questions = open_questions(steps)
        self._before: Sequence[str] = ()
        if self._questions is None:
            return
        began = time.perf_counter()
        try:
            self._before = self._questions.answer()
        except _NO_REASON_TO_FAIL as error:
            log.warning("no answers in the report: %s", error)
            self._questions = None
        else:
            log.info("answered %d prompts before training (%.1f s)", len(self._before), time.perf_counter() - began)

    def keep(self) -> None:
        """Answer again, and write both answers into RUN/measured.json."""
        questions = self._questions
        if questions is None:
            return
        try:
            after = questions.answer()
        except _NO_REASON_TO_FAIL as error:
            log.warning("no answers in the report: %s", error)
            return
        rows = zip(questions.prompts.texts, self._before, after, strict=True)
        answers = tuple(Answered(prompt=prompt, before=before, after=after) for prompt, before, after in rows)
        update = {"answers": answers, "answers_held_out": questions.held_out}
        path = questions.out / "measured.json"
        write_measured(path, read_measured(path).model_copy(update=update))
