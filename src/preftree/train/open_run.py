"""Start and end of a run: opened with its model, admitted to its folder, and finished with the trained model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from transformers import PreTrainedTokenizerBase

from preftree.config.load import AnyConfig
from preftree.data.sources.votes_behind import votes_behind
from preftree.errors import TrainingError
from preftree.models.adapters import adapted_layers, adapted_share, base_tensors, trained_parameters
from preftree.models.beside_weights import stored_dtype
from preftree.models.gguf.header import find_gguf
from preftree.models.load import load_tokenizer
from preftree.models.write_folder import save_adapter, save_model
from preftree.run_folder import writer
from preftree.run_folder.card import code_span, model_card
from preftree.run_folder.summary_file import write_summary
from preftree.runtime.paths import cache_root
from preftree.runtime.ranks import Ranks, open_ranks
from preftree.scoring.scorer import Scorer
from preftree.scoring.verify import ProbeReport, require_finite_figures, verify_scorer
from preftree.storage.checkpoint import LoadedCheckpoint
from preftree.trackers.guarded import require_trackers
from preftree.train.policy import Policy, load_policy
from preftree.train.state import Progress, require_finite
from preftree.train.step.optimizer import check_optimizer, warmup_length
from preftree.tree.layout import TokenSequence

log = logging.getLogger("preftree")

C = TypeVar("C", bound=AnyConfig)
D = TypeVar("D", bound=AnyConfig, covariant=True)


@dataclass(frozen=True, eq=False, slots=True)
class OpenRun(Generic[D]):
    """A run with a locked folder and a loaded model.

    Attributes:
      config: The options, all filled in.
      ranks: The processes.
      start: The checkpoint that the run resumes from; None for a fresh run.
      policy: The loaded model; a checkpoint is not yet restored into it.
      tokenizer: The policy's tokenizer.
    """

    config: D
    ranks: Ranks
    start: LoadedCheckpoint | None
    policy: Policy
    tokenizer: PreTrainedTokenizerBase

    @property
    def scorer(self) -> Scorer:
        """Scorer of the policy."""
        return self.policy.scorer

    def about(self, trajectory: Mapping[str, object], **more: object) -> dict[str, object]:
        """Description of the run for checkpoints and the summary, as plain JSON."""
        return {
            "policy": self.policy.words,
            **more,
            "trajectory": dict(trajectory),
            "config": self.config.model_dump(),
            "environment": writer.environment(self.ranks),
        }


@runtime_checkable
class RunData(Protocol):
    """The data of a run, as its admission needs it."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        ...

    def probes(self) -> Sequence[Sequence[TokenSequence]]:
        """A few groups of responses on which trees are compared with the plain forward."""
        ...

    def check_budget(self, scorer: Scorer) -> None:
        """Refuse data with an example that alone is larger than the micro-batch budget."""
        ...

    def describe(self) -> None:
        """Log the amount of data and the number of steps."""
        ...


@contextmanager
def open_run(config: C, load: Callable[[C, Ranks], Policy] | None = None) -> Iterator[OpenRun[C]]:
    """Join the ranks, lock the run's folder, pin threads and seeds, load the model.

    Args:
      config: The options.
      load: Loads the model; a language model by default.
    Raises:
      UserError: one of these fails; the message names the remedy.
    """
    require_trackers(config.track)
    with open_ranks() as ranks, writer.claim_folder(config, ranks):
        start = writer.find_start(config, ranks)
        yield load_run(config, ranks, start, load)


def load_run(
    config: C, ranks: Ranks, start: LoadedCheckpoint | None, load: Callable[[C, Ranks], Policy] | None = None
) -> OpenRun[C]:
    """Pin threads and seeds, load model and tokenizer; nothing of the run's folder is read or written."""
    check_optimizer(config)
    threads = config.threads or (start.state.meta["environment"]["threads"] if start else torch.get_num_threads())
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    config = config.model_copy(update={"threads": threads, "cache": config.cache or str(cache_root())})
    policy, tokenizer = (load or load_policy)(config, ranks), load_tokenizer(config.model)
    config = config.model_copy(update={"lora": policy.lora})
    if config.gradient_checkpointing:
        policy.scorer.checkpoint_gradients(float(config.gradient_checkpointing))
    if config.compile:
        policy.scorer.compile_layers()
    return OpenRun(config, ranks, start, policy, tokenizer)


def warmup_of(run: OpenRun[AnyConfig], num_steps: int) -> int:
    """Steps of warm-up; under a constant rate an extended run keeps its original number."""
    config, start = run.config, run.start
    if start and config.schedule == "constant" and start.state.meta["config"]["warmup_steps"] == config.warmup_steps:
        return start.state.meta["trajectory"]["steps of warm-up"]
    return warmup_length(config, num_steps)


def adaptation(run: OpenRun[AnyConfig]) -> dict[str, object]:
    """Entries of the adapter in a trajectory; none where all weights are trained."""
    policy = run.policy
    if policy.lora is None:
        return {}
    options = {f"lora.{name}": value for name, value in policy.lora.model_dump(exclude={"name", "new"}).items()}
    start = "merged" if policy.merged else "fresh" if policy.is_fresh else "of the model"
    return {"adapter": start, **options, "quantize": run.config.quantize}


def admit(
    run: OpenRun[AnyConfig],
    data: RunData,
    trajectory: Mapping[str, object],
    verify: Callable[[Scorer, Sequence[Sequence[TokenSequence]]], ProbeReport] = verify_scorer,
) -> Progress | None:
    """Decide whether the run may start or resume, and prepare its folder.

    Args:
      run: The open run.
      data: Its training data.
      trajectory: Everything that determines the sequence of weights.
      verify: Comparison of the tree path with the plain forward, on a few examples.
    Returns:
      None where there are steps to take; the progress of a run that has finished before.
    Raises:
      CheckpointError: the checkpoint is of another trajectory.
      ConfigError: an example is larger than the micro-batch budget.
      TrainingError: the tree path differs from the plain forward.
    """
    config, start = run.config, run.start
    writer.check_trajectory(config, start, trajectory)
    if start is not None and writer.is_finished(config, start, data.num_steps):
        log.info("%s is finished at step %d; nothing to do", config.out, start.step)
        return Progress(**start.state.meta["progress"])
    data.check_budget(run.scorer)
    if start is None:
        writer.start_over(config, run.ranks)
    writer.write_config(config, run.ranks)
    writer.set_aside_earlier_end(config, run.ranks)
    _describe_model(run)
    data.describe()
    if start is not None:
        log.info("resuming from %s", start.path)
    report = verify(run.scorer, data.probes())
    log.info("trees equal the plain forward: difference %.1e nats of %.1e allowed", report.difference, report.tolerance)
    return None


def finish(
    run: OpenRun[AnyConfig],
    progress: Progress,
    figures: Mapping[str, float],
    about: Mapping[str, object],
    rows_sha256: str,
    measure: Callable[[], object],
) -> None:
    """Write RUN/model with its card, measure, and write RUN/summary.json last: its presence marks a finished run.

    Args:
      run: The open run.
      progress: Its position at the end.
      figures: Figures of the last evaluation.
      about: Description of the run.
      rows_sha256: Digest of metrics.jsonl.
      measure: Writes what is measured after training.
    Raises:
      TrainingError: a weight or what the model computes is not finite, or the folder cannot be written.
    """
    if not run.ranks.leads:
        return
    require_finite(run.scorer.model, progress.step)
    require_finite_figures(run.scorer, progress.step)
    out = Path(run.config.out)
    summary = {
        "recipe": run.config.recipe,
        "steps": progress.step,
        "examples": progress.examples,
        "tokens": progress.tokens,
        "tokens_saved_by_sharing": 1 - progress.tokens / progress.tokens_alone,
        "training_seconds": round(progress.seconds, 3),
        "peak_memory_bytes": writer.peak_memory(run.ranks),
        "held_out": dict(figures),
        **votes_behind(run.config.data.path),
        **about,
    }
    try:
        write_model_of(run, summary, out / "model")
        measure()
        write_summary(out, {**summary, "metrics_sha256": rows_sha256})
    except OSError as error:
        raise TrainingError(
            f"{error.filename or out / 'model'} cannot be written ({error.strerror or error}); the last checkpoint is "
            "safe: fix that and start again with resume=auto"
        ) from error
    log.info("model in %s", out / "model")


def write_model_of(run: OpenRun[AnyConfig], summary: Mapping[str, object], folder: Path) -> None:
    """Write the model, or its adapter, into a folder; also RUN/base where the adapter's base is in no model folder.

    Raises:
      OSError: it cannot be written.
    """
    policy, model, out = run.policy, run.scorer.model, Path(run.config.out)
    dtype, base_dtype = str(model.dtype).removeprefix("torch."), stored_dtype(policy.base)
    place = None if folder == out / "model" else str(folder)
    card = model_card(run.config, summary, place=place, dtype=dtype, base_dtype=base_dtype)
    if policy.lora is None:
        if base_dtype not in (None, dtype):
            hint = "" if find_gguf(policy.base) else " (preftree export --dtype rounds them)"
            log.info(
                "weights are written in %s, as they were trained; %s is %s%s", dtype, policy.base, base_dtype, hint
            )
        save_model(model, run.tokenizer, folder, card=card, source=policy.base)
        return
    base = policy.base
    if policy.merged or find_gguf(policy.base):
        base, start = str(out / "base"), code_span(policy.base)
        if policy.merged and policy.incoming is not None:
            start += f" with adapter {code_span(str(policy.incoming.path))} merged into it"
        if base_dtype not in (None, dtype):
            start += f" ({base_dtype})"
        about = f"# Base of an adapter\n\n{start}.\n"
        if folder == out / "model" or not (out / "base").is_dir():
            save_model(model, run.tokenizer, out / "base", card=about, source=policy.base, tensors=base_tensors(model))
    others = policy.others(run.config.model)
    save_adapter(model, run.tokenizer, folder, base=base, card=card, beside=others)


def _describe_model(run: OpenRun[AnyConfig]) -> None:
    config, scorer, ranks = run.config, run.scorer, run.ranks
    size = sum(parameter.numel() for parameter in scorer.parameters())
    device = f"{ranks.size} x cuda" if ranks.device.type == "cuda" else f"{ranks.size} x cpu, {config.threads} threads"
    sharing = "" if scorer.shares_prefixes else ", prompts computed once per response"
    log.info("%s: %.1f M parameters, %s on %s%s", config.model, size / 1e6, config.precision, device, sharing)
    text = scorer.model.config.get_text_config()
    if getattr(text, "output_router_logits", False) and getattr(text, "router_aux_loss_coef", 0):
        log.warning(
            "%s asks for the auxiliary loss of its routers (output_router_logits, router_aux_loss_coef=%g), which is "
            "not added: it multiplies means over the tokens that are computed together, so how a step is packed would "
            "change the training",
            *(config.model, text.router_aux_loss_coef),
        )
    if (lora := run.policy.lora) is not None:
        log.info(
            "%s: %s on %d layers (%.1f %% of the layers' weights), %.2f M parameters trained%s",
            run.policy.words,
            f"{'DoRA' if lora.dora else 'LoRA'} of rank {lora.r}, alpha {lora.alpha:g}",
            len(adapted_layers(scorer)),
            100 * adapted_share(run.scorer.model),
            sum(parameter.numel() for parameter in trained_parameters(scorer).values()) / 1e6,
            f", base in {config.quantize}" if config.quantize else "",
        )
