"""Run a recipe to its end, and keep the figures that its models give while they are in memory."""

from __future__ import annotations

from pathlib import Path

from preftree.config.load import AnyConfig
from preftree.config.recipes import RECIPES
from preftree.evaluate.in_memory.before_and_after import BeforeAndAfter
from preftree.evaluate.token_rewards import token_rewards
from preftree.reference.protocol import TableReference
from preftree.run_folder.measured_file import Reliability, read_measured, write_measured
from preftree.storage.atomic import disk_faults
from preftree.train.dataset import probe_rows
from preftree.train.loop import Outcome, Steps
from preftree.train.preference_task import PreferenceTask
from preftree.train.reward import RewardTask, reliability_of
from preftree.train.step.supervised import SupervisedSteps

PAIRS = 6
"""Pairs whose token rewards are kept."""

LONGEST = 400
"""Most tokens of a pair that is shown."""


def run_recipe(config: AnyConfig) -> Outcome:
    """Train as the options say, and add to RUN/measured.json what can be measured right away.

    Raises:
      UserError: something outside the program is wrong; the sentence says what to do.
    """
    with disk_faults("make room, and repeat the command with resume=auto"):
        return RECIPES[config.recipe].load()(config, _RunFigures())


class _RunFigures:
    """Figures of a run that its models give while they are in memory."""

    def __init__(self) -> None:
        self._answers: BeforeAndAfter | None = None

    def before(self, steps: Steps) -> None:
        """Answer a few prompts."""
        self._answers = BeforeAndAfter(steps)

    def after(self, steps: Steps) -> None:
        """Answer them again, and keep what else this kind of run gives."""
        if self._answers is not None:
            self._answers.keep()
        if isinstance(steps, SupervisedSteps) and isinstance(steps.task, PreferenceTask):
            _keep_token_rewards(steps, steps.task)
        if isinstance(steps, SupervisedSteps) and isinstance(steps.task, RewardTask):
            _keep_reliability(steps, steps.task)


def _keep_token_rewards(steps: SupervisedSteps, task: PreferenceTask) -> None:
    """Keep the token rewards of a few held-out pairs, or of training pairs where none are held out."""
    beta = task.objective.lead.options.get("beta")
    if not isinstance(task.reference, TableReference) or task.objective.kind != "pair" or not isinstance(beta, float):
        return
    part = steps.data.train if steps.data.held_out is None else steps.data.held_out
    examples = [part.store[row] for row in probe_rows(part, most=PAIRS, longest=LONGEST)]
    run = steps.run
    rewards = token_rewards(run.scorer, task.reference.table, examples, beta=beta, tokenizer=run.tokenizer)
    path = Path(run.config.out) / "measured.json"
    write_measured(path, read_measured(path).model_copy(update={"token_rewards": tuple(rewards)}))


def _keep_reliability(steps: SupervisedSteps, task: RewardTask) -> None:
    """Keep the reliability curve of the held-out pairs."""
    calibration = reliability_of(steps, task) if task.objective.kind == "pair" else None
    if calibration is None:
        return
    path = Path(steps.run.config.out) / "measured.json"
    curve = tuple(map(Reliability.of, calibration.bins))
    write_measured(path, read_measured(path).model_copy(update={"reliability": curve}))
