"""The end of a run: its model, its card and its summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from preftree.config.recipes import AnyConfig
from preftree.errors import TrainingError
from preftree.models.adapters import base_tensors
from preftree.models.export import save_adapter, save_model
from preftree.run_folder.card import model_card
from preftree.run_folder.writer import log, peak_memory
from preftree.runtime.ranks import Ranks
from preftree.storage.atomic import write_atomic
from preftree.train.loop import Outcome
from preftree.train.policy import Policy
from preftree.train.state import require_finite


def finish(
    config: AnyConfig,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    outcome: Outcome,
    about: Mapping[str, object],
    ranks: Ranks,
) -> None:
    """Write RUN/model with its card, and RUN/summary.json last: it says that all else is there.

    Raises:
      TrainingError: a weight is not finite, or the folder cannot be written.
    """
    if not ranks.leads:
        return
    require_finite(policy.scorer.model, outcome.progress.step)
    out = Path(config.out)
    progress = outcome.progress
    summary = {
        "recipe": config.recipe,
        "steps": progress.step,
        "examples": progress.examples,
        "tokens": progress.tokens,
        "tokens_saved_by_sharing": 1 - progress.tokens / progress.tokens_alone,
        "training_seconds": round(progress.seconds, 3),
        "peak_memory_bytes": peak_memory(ranks),
        "held_out": dict(outcome.figures),
        **about,
    }
    try:
        _write_model(config, policy, tokenizer, model_card(config, summary))
        write_atomic(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    except OSError as error:
        raise TrainingError(
            f"{out / 'model'} cannot be written ({error.strerror or error}); the last checkpoint is safe: "
            "mend that and start again with resume=auto"
        ) from error
    log.info("model in %s", out / "model")


def _write_model(config: AnyConfig, policy: Policy, tokenizer: PreTrainedTokenizerBase, card: str) -> None:
    """RUN/model: the model, or its adapter; RUN/base as well where the adapter's base is in no folder yet."""
    model, out = policy.scorer.model, Path(config.out)
    if policy.lora is None:
        save_model(model, tokenizer, out / "model", card=card)
        return
    base = policy.base
    if policy.merged:
        assert policy.incoming is not None
        base = str(out / "base")
        about = f"# {out.name}, base\n\n`{policy.base}` with adapter `{policy.incoming.path}` merged into it.\n"
        save_model(model, tokenizer, out / "base", card=about, tensors=base_tensors(model))
    others = policy.others(config.model)
    save_adapter(model, tokenizer, out / "model", base=base, card=card, beside=others)
