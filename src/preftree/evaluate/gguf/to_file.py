"""A finished run as a GGUF file for llama.cpp and Ollama, kept only if it reads back as what it was written from."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from preftree.errors import ModelError
from preftree.evaluate.export import (
    Exported,
    Subject,
    card_sections,
    compare_logits,
    logits_of,
    open_subject,
    require_new,
    require_same_tokens,
)
from preftree.models.adapter_folder import find_adapter
from preftree.models.gguf.header import SUFFIX, find_gguf, gguf_header
from preftree.models.gguf.read import load_gguf, load_gguf_tokenizer
from preftree.models.gguf.write import GgufType, plain_template, require_writable, round_weights, write_gguf
from preftree.models.serving import modelfile
from preftree.run_folder.card import model_card
from preftree.run_folder.summary_file import CARD
from preftree.storage.atomic import staged_dir
from preftree.storage.manifest import write_manifest

TOLERANCES: dict[GgufType, float] = {"f16": 0.1, "bf16": 0.5, "q8_0": 2.0}
"""Default tolerances of logits to the run's own: what rounding the weights of a model of 135 M moved them by, and twice
that (docs/numbers.md)."""

SAME = 1e-3
"""Most that logits of the file may differ from those of a model whose weights were rounded in memory."""

_CHAT = [{"role": "user", "content": "What  is ½ of 10?"}, {"role": "assistant", "content": "5."}]


def export_run_gguf(path: Path, out: Path, kind: GgufType, *, tolerance: float | None = None) -> Exported:
    """Write a finished run's whole model, its adapter merged, as one GGUF file in a new folder.

    Args:
      path: The run's folder, or RUN@40 for a step on disk.
      out: The folder to make, new or empty.
      kind: Type of the matrices.
      tolerance: Largest difference of a logit to the run's own; None is TOLERANCES.
    Raises:
      DataError: the run is not finished, or its data is gone.
      ConfigError: the folder is not empty.
      ModelError: llama.cpp's format has no place for the model or its tokenizer, or the file does not read back as what
        it was written from; nothing is left of it.
    """
    require_new(out)
    subject = open_subject(path)
    tokenizer, ends, settings = subject.tokenizer, subject.ends, subject.model.generation_config
    require_writable(subject.model, tokenizer, ends)
    subject.compute()
    whole = subject.whole()
    del subject.model
    allowed = TOLERANCES[kind] if tolerance is None else tolerance
    file = f"{out.name}-{kind}{SUFFIX}"
    with staged_dir(out) as folder:
        licence = licence_of(subject)
        write_gguf(whole, tokenizer, folder / file, kind, ends=ends, name=out.name, licence=licence)
        round_weights(whole, kind)
        rounded = logits_of(whole, subject.prompts)
        del whole
        model, again = load_gguf(folder / file), load_gguf_tokenizer(folder / file)
        if not (beyond := compare_logits(model, subject.prompts, rounded)) <= SAME:
            raise ModelError(
                f"the GGUF file gives logits that are off by {beyond:.3g} from those of the same model with weights "
                f"rounded to {kind} (allowed: {SAME}), so it was not kept; please report it"
            )
        difference = compare_logits(model, subject.prompts, subject.expected)
        if not difference <= allowed:
            raise ModelError(
                f"rounding to {kind} moves logits by up to {difference:.3g} on prompts of the run's data (allowed: "
                f"{allowed:.3g}), so the file was not kept; choose --gguf f16 or bf16, or set --tolerance"
            )
        require_same_tokens(again, tokenizer, subject.prompts)
        _require_same_chat(again, tokenizer)
        if model.generation_config is not None:
            subject.compare_ends(model, model.generation_config)
        del model
        text = modelfile(tokenizer, settings, base=None, file=f"./{file}")  # pyright: ignore[reportArgumentType]  # a causal LM has some
        (folder / "Modelfile").write_text(text, encoding="utf-8")
        result = Exported(out, difference, allowed, len(subject.prompts), _commands(out, file))
        card = model_card(
            subject.config,
            subject.summary,
            place=str(out),
            adapter=False,
            dtype=kind,
            base_dtype=subject.base_dtype,
            gguf=file,
            licence=licence,
            more=card_sections(subject, folder, result),
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        write_manifest(folder)
    return result


def licence_of(subject: Subject) -> str | None:
    """The licence of the model that training started from: a key of a GGUF file, or the head of a folder's card."""
    name = subject.adapter.base if subject.adapter is not None else subject.config.model
    adapter = find_adapter(name)
    place = Path(adapter.base if adapter is not None else name).expanduser()
    if gguf := find_gguf(place):
        licence = gguf_header(gguf).metadata.get("general.license")
        return licence if isinstance(licence, str) else None
    card = place / CARD
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0] if card.is_file() else ""
    match = re.search(r"^license:\s*['\"]?([\w.+-]+)", head, re.MULTILINE) if head.startswith("---") else None
    return match[1] if match else None


def _require_same_chat(again: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compare the chat templates on a conversation.

    Raises:
      ModelError: it becomes another text, or other tokens.
    """
    if not isinstance(tokenizer.chat_template, str):
        return
    ours, theirs = (
        (text := str(each.apply_chat_template(_CHAT, tokenize=False)), each.encode(text, add_special_tokens=False))
        for each in (tokenizer, again)
    )
    if ours != theirs:
        raise ModelError(
            "the chat template in the GGUF file gives another text or other tokens than the run's; please report it"
        )
    if plain_template(tokenizer.chat_template) != again.chat_template:
        raise ModelError("the GGUF file holds another chat template than the run's; please report it")


def _commands(out: Path, file: str) -> dict[str, str]:
    """Commands that use the file, by program."""
    return {
        "llama.cpp": f"llama-server -m {shlex.quote(str(out / file))}",
        "Ollama": f"ollama create {shlex.quote(out.name.lower())} -f {shlex.quote(str(out / 'Modelfile'))}",
    }
