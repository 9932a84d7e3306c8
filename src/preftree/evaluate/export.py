"""Export of a finished run as a folder for other programs, kept only if it loads and computes the same logits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from preftree.config.load import AnyConfig, check_config
from preftree.errors import ConfigError, DataError, ModelError
from preftree.evaluate.prompts import run_prompts
from preftree.generate.hf import generate
from preftree.generate.protocol import Generation, Sampling
from preftree.models.adapter_folder import AdapterFolder, find_adapter, write_adapter
from preftree.models.adapters import merge_adapter
from preftree.models.beside_weights import end_tokens, stored_dtype, write_generation, write_tokenizer
from preftree.models.load import load_base, load_model, load_tokenizer
from preftree.models.serving import adapter_commands, merged_commands, modelfile
from preftree.models.write_folder import write_model
from preftree.run_folder.card import code_span, model_card
from preftree.run_folder.reader import Run, read_run
from preftree.run_folder.steps import find_step, split_step
from preftree.run_folder.summary_file import digest_row, read_summary
from preftree.runtime.ranks import open_ranks
from preftree.scoring.architecture import position_limit
from preftree.storage.atomic import staged_dir
from preftree.storage.manifest import write_manifest
from preftree.train.step_model import step_folder, summary_at

Dtype = Literal["float32", "bfloat16", "float16"]

TOLERANCES: dict[Dtype, float] = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.5}
"""Default tolerances of logits: merging rounds in fp32; rounded weights move logits by far more."""

PROMPTS = 8
MOST_TOKENS = 512
MOST_NEW = 24
"""Most tokens of a response whose end is compared."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported folder and how it was verified.

    Attributes:
      out: The folder.
      difference: Largest difference of a logit to the run's own model, on prompts of the run's data.
      tolerance: Largest difference that was allowed.
      num_prompts: Number of prompts compared.
      commands: Commands that use the folder, by program.
    """

    out: Path
    difference: float
    tolerance: float
    num_prompts: int
    commands: Mapping[str, str]


@dataclass(slots=True)
class Subject:
    """What is exported: the model of a run, at its end or at a step, and what it computes on prompts of the run's data.

    Attributes:
      run: The run.
      folder: Its model's folder.
      summary: What is known of the run at this step.
      config: Its options.
      adapter: Its adapter, if it trained one.
      tokenizer: Its tokenizer.
      model: Its model, with the adapter beside the weights.
      ends: Tokens that end a response.
      prompts: Token ids of prompts.
      expected: Logits of each prompt.
      asked: Those prompts that leave room for a response.
      sampled: Greedy responses to these.
      most_new: Most tokens of a response.
    """

    run: Run
    folder: Path
    summary: Mapping[str, Any]
    config: AnyConfig
    adapter: AdapterFolder | None
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    ends: list[int]
    prompts: list[list[int]] = field(default_factory=list)
    expected: list[torch.Tensor] = field(default_factory=list)
    asked: list[list[int]] = field(default_factory=list)
    sampled: list[Generation] = field(default_factory=list)
    most_new: int = MOST_NEW

    @property
    def base_dtype(self) -> str | None:
        """Dtype of the weights that training started from."""
        return stored_dtype(self.adapter.base if self.adapter is not None else self.config.model)

    def whole(self) -> PreTrainedModel:
        """The model with its adapter merged."""
        if self.adapter is None:
            return self.model
        merge_adapter(merged := load_base(self.adapter), self.adapter)
        return merged

    def compute(self) -> None:
        """Compute logits and greedy responses of the run's own model."""
        with open_ranks() as ranks:
            found, _ = run_prompts(self.config, self.tokenizer, ranks, most=PROMPTS, seed=0)
        self.prompts = [list(ids)[-MOST_TOKENS:] for ids in found.ids]
        self.expected = logits_of(self.model, self.prompts)
        limit = position_limit(self.model) or MOST_TOKENS + MOST_NEW
        self.most_new = new = min(MOST_NEW, max(1, limit // 2))
        self.asked = [ids[-(limit - new) :] for ids in self.prompts] if new < limit else []
        self.sampled = generate(self.model, self.tokenizer, self.asked, Sampling(max_new_tokens=new, temperature=0.0))

    def compare_ends(self, model: Any, settings: GenerationConfig) -> None:
        """Compare where the plain `generate` of transformers ends with where our sampler does, on greedy responses.

        Args:
          model: The exported model.
          settings: Its generation settings.
        Raises:
          ModelError: other tokens end a response there, or a response of the same tokens ends elsewhere.
        """
        _compare_ends(model, settings, self.asked, self.ends, self.sampled, self.most_new)


def open_subject(path: Path) -> Subject:
    """The model of a finished run, or of any run at a step on disk (RUN@40), loaded.

    Raises:
      DataError: the run is not finished, has no such step, or is that of a reward model.
      ModelError: its model cannot be loaded.
    """
    name, step = split_step(str(path))
    run = read_run(Path(name))
    if step is None:
        run.require_finished()
    folder, summary = run.path / "model", run.summary
    if step is not None:
        folder, summary = step_folder(run.path, step), summary_at(run, find_step(run.path, step)[0])
    if run.recipe.trains == "reward_model":
        raise DataError(f"{path} is the run of a reward model, whose folder needs no export: {folder}")
    config = check_config(run.recipe.config, run.config)
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    ends = end_tokens(model.generation_config, tokenizer)
    return Subject(run, folder, summary, config, find_adapter(folder), tokenizer, model, ends)


def export_run(
    path: Path,
    out: Path,
    kind: Literal["adapter", "merged"],
    *,
    dtype: Dtype = "float32",
    tolerance: float | None = None,
) -> Exported:
    """Write a finished run's adapter, or its whole model with the adapter merged, into a new folder.

    Args:
      path: The run's folder, or RUN@40 for a step on disk.
      out: The folder to make, new or empty.
      kind: Content of the folder. `merged` works for a run of all weights as well.
      dtype: Type of the stored weights; an adapter stays as it was trained.
      tolerance: Largest difference of a logit; None is TOLERANCES.
    Raises:
      DataError: the run is not finished, or its data is gone.
      ConfigError: the folder is not empty, or the run trained no adapter.
      ModelError: what was written does not compute what the run's model computes; nothing is left of it.
    """
    require_new(out)
    subject = open_subject(path)
    adapter, tokenizer, ours = subject.adapter, subject.tokenizer, subject.model
    if kind == "adapter" and adapter is None:
        raise ConfigError(f"{path} trained all weights, it has no adapter; export it with --merged")
    subject.compute()
    allowed = TOLERANCES["float32" if kind == "adapter" else dtype] if tolerance is None else tolerance
    with staged_dir(out) as folder:
        if kind == "adapter":
            assert adapter is not None
            write_adapter(ours, adapter.base, folder)
            write_generation(ours.generation_config, tokenizer, folder)
            write_tokenizer(tokenizer, folder)
            commands = adapter_commands(out, adapter.base, adapter.config)
        else:
            source = str(subject.folder) if adapter is None else adapter.base
            write_model(subject.whole(), tokenizer, folder, source=source, dtype=getattr(torch, dtype))
            commands = merged_commands(out, dtype)
        base = adapter.base if adapter is not None and kind == "adapter" else None
        text = modelfile(tokenizer, ours.generation_config, base=base)  # pyright: ignore[reportArgumentType]  # a causal LM has one
        (folder / "Modelfile").write_text(text, encoding="utf-8")
        del ours, subject.model
        model = load_elsewhere(folder, kind)
        difference = compare_logits(model, subject.prompts, subject.expected)
        require_same_tokens(AutoTokenizer.from_pretrained(folder), tokenizer, subject.prompts)
        if not difference <= allowed:
            raise ModelError(
                f"the exported {kind} gives logits that are off by {difference:.3g} on prompts of the run's data "
                f"(allowed: {allowed:.3g}), so it was not kept; choose a wider dtype, or set --tolerance"
            )
        subject.compare_ends(model, GenerationConfig.from_pretrained(folder))
        del model
        result = Exported(out, difference, allowed, len(subject.prompts), commands)
        card = model_card(
            subject.config,
            subject.summary,
            place=str(out),
            adapter=kind == "adapter",
            dtype=dtype,
            base_dtype=subject.base_dtype,
            more=card_sections(subject, folder, result),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_manifest(folder)
    return result


def require_new(out: Path) -> None:
    """Refuse a place that holds something.

    Raises:
      ConfigError: it is no folder, or not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already and not empty; export into a new folder")


def logits_of(model: nn.Module, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Logits of each prompt, computed alone, in fp32."""
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float() for ids in prompts]


def load_elsewhere(folder: Path, kind: str) -> Any:
    """The model in a folder as others load it, in fp32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by old names
        if kind != "adapter":
            return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        from peft import AutoPeftModelForCausalLM

        return AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()


def compare_logits(model: nn.Module, prompts: list[list[int]], expected: list[torch.Tensor]) -> float:
    """The largest difference of a logit."""
    return max(
        float((ours - theirs).abs().nan_to_num(torch.inf).max())
        for ours, theirs in zip(logits_of(model, prompts), expected, strict=True)
    )


def require_same_tokens(
    again: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    """Compare an exported tokenizer with the one that it was written from, on the texts of the prompts and a chat.

    Raises:
      ModelError: a text becomes other tokens.
    """
    texts = [str(tokenizer.decode(ids)) for ids in prompts]
    for text in texts:
        if again(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise ModelError(f"the exported tokenizer splits {text[:40]!r} otherwise than the run's; please report it")


def _compare_ends(
    model: Any,
    settings: GenerationConfig,
    prompts: list[list[int]],
    ends: list[int],
    sampled: list[Generation],
    most: int,
) -> None:
    stored = settings.eos_token_id
    known = stored if isinstance(stored, list) else [stored]
    if set(known) != set(ends):
        raise ModelError(
            f"the exported folder ends responses at tokens {known}, and the run at {ends}; please report it"
        )
    plain = GenerationConfig(
        max_new_tokens=most, do_sample=False, eos_token_id=settings.eos_token_id, pad_token_id=ends[0]
    )
    model.generation_config = GenerationConfig()
    for ids, ours in zip(prompts, sampled, strict=True):
        row = torch.tensor([ids])
        with torch.no_grad():
            out = model.generate(input_ids=row, attention_mask=torch.ones_like(row), generation_config=plain)
        drawn = out[0, len(ids) :].tolist()
        ended = [*ours.ids, *([] if ours.end is None else [ours.end])]
        shared = min(len(drawn), len(ended))
        # Rounding may part two greedy responses; what comes after says nothing about ends.
        if drawn[:shared] == ended[:shared] and len(drawn) != len(ended):
            raise ModelError(
                f"plain generate ends a response of the exported folder after {len(drawn)} tokens, and the run's "
                f"sampler after {len(ended)}; please report it"
            )


def card_sections(subject: Subject, folder: Path, result: Exported) -> str:
    """Lineage, hashes, the comparison, and the commands, for the card of an export."""
    run, config = subject.run, subject.config
    hashes = "\n".join(digest_row(path) for path in sorted(folder.iterdir()) if path.is_file())
    calls = "\n".join(f"{name}:\n\n    {command}\n" for name, command in result.commands.items())
    chain = "\n".join(f"{number}. {words}" for number, words in enumerate(_lineage(run.path, config), 1))
    stored = (
        f"\nIt was trained over {config.quantize} weights; here it belongs to the weights before quantisation.\n"
        if config.quantize
        else ""
    )
    return f"""
## Lineage

{chain}

## This folder

Loaded again, its logits differ by at most {result.difference:.3g} (allowed: {result.tolerance:.3g}) from those of the
run's model, on {result.num_prompts} prompts of the run's data, in fp32.
{stored}
| file | SHA-256 |
|---|---|
{hashes}

{calls}"""


def _lineage(path: Path, config: AnyConfig) -> list[str]:
    """The models and data that the run came from, as far as the folders say, oldest first."""
    steps = [f"{code_span(str(path))}: {config.recipe} on {code_span(str(config.data.path))}"]
    start = Path(config.model).expanduser()
    seen = {path.resolve()}
    while start.parent.resolve() not in seen and (parent := read_summary(start.parent)) is not None:
        seen.add(start.parent.resolve())
        if not {"data", "model"} <= parent.config.keys():  # of an early version
            break
        data = code_span(str(parent.config["data"]["path"]))
        steps.append(f"{code_span(str(start.parent))}: {parent.recipe} on {data}")
        start = Path(parent.config["model"]).expanduser()
    return [code_span(str(start)), *reversed(steps)]
