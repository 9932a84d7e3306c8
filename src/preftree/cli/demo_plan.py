"""What the demo does, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from preftree.worlds.sentiment import Labeller

RESPONSES_PER_PROMPT = 4
HELD_OUT_PROMPTS = 90
LABELLER = Labeller("bt", scale=10.0)
SEEDS = {"corpus": 0, "model": 0, "samples": 1, "labels": 2, "held-out samples": 3, "held-out labels": 4, "texts": 5}


@dataclass(frozen=True, slots=True)
class Run:
    """One DPO run; the method is `dpo_` and the optimizer's name."""

    beta: float
    optimizer: str
    lr: float
    schedule: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"dpo-{self.optimizer}-beta{self.beta:g}" + (f"-seed{self.seed}" if self.seed else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything a demo does.

    Attributes:
      world: Name of a world.
      texts: Texts of the corpus.
      prompts: Prompts that responses are drawn for and compared, four each.
      sft_steps: Steps of fine-tuning, of 64 texts.
      dpo_steps: Steps of each DPO run, of 32 pairs.
      runs: The DPO runs.
    """

    world: str
    texts: int
    prompts: int
    sft_steps: int
    dpo_steps: int
    runs: tuple[Run, ...]


_ADAMW = ("adamw", 3e-3, "cosine")
_RMSPROP = ("rmsprop", 1e-3, "constant")
PLANS = {
    "fast": Plan(
        "tiny",
        2000,
        400,
        100,
        80,
        (Run(0.5, *_ADAMW), Run(1.0, *_ADAMW), Run(3.0, *_ADAMW), Run(1.0, *_RMSPROP)),
    ),
    "demo": Plan("small", 8000, 1500, 300, 300, (Run(0.5, *_ADAMW), Run(2.0, *_ADAMW), Run(0.5, *_RMSPROP))),
    "full": Plan(
        "small",
        8000,
        3000,
        600,
        1500,
        tuple(
            Run(beta, *how, seed=seed)
            for how in (_ADAMW, _RMSPROP)
            for beta in (0.1, 0.3, 1.0, 3.0)
            for seed in (0, 1, 2)
        ),
    ),
}
