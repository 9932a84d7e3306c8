"""A GGUF file as an ordinary model folder, kept only if it computes what the file's model computes."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from transformers import AutoTokenizer

from preftree import __version__
from preftree.errors import ModelError
from preftree.evaluate.export import (
    TOLERANCES,
    Dtype,
    Exported,
    compare_logits,
    load_elsewhere,
    logits_of,
    require_new,
    require_same_tokens,
)
from preftree.models.beside_weights import stored_dtype
from preftree.models.gguf.header import gguf_header
from preftree.models.load import load_model, load_tokenizer
from preftree.models.serving import merged_commands, modelfile
from preftree.models.write_folder import write_model
from preftree.run_folder.card import code_span, fenced
from preftree.run_folder.summary_file import CARD
from preftree.storage.atomic import staged_dir
from preftree.storage.manifest import hash_file, write_manifest

TEXTS = (
    "The capital of France is Paris, and that of Italy is",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "In 1969, 2 people walked on the Moon; 12 have done so since.",
    "Übung macht den Meister. 練習 ½ naïve café \u200d 🙂",
)
"""Texts on which logits and tokens are compared."""


def export_gguf(path: Path, out: Path, *, dtype: Dtype = "float32", tolerance: float | None = None) -> Exported:
    """Write the model in a GGUF file into a new model folder.

    Args:
      path: The file.
      out: The folder to make, new or empty.
      dtype: Type of the stored weights.
      tolerance: Largest difference of a logit; None is TOLERANCES.
    Raises:
      ConfigError: the folder is not empty.
      ModelError: the file cannot be read, or what was written does not compute what its model computes.
    """
    require_new(out)
    model, tokenizer = load_model(path), load_tokenizer(path)
    prompts = [tokenizer.encode(text) for text in TEXTS]
    expected, types = logits_of(model, prompts), stored_dtype(str(path))
    allowed = TOLERANCES[dtype] if tolerance is None else tolerance
    commands = merged_commands(out, dtype)
    with staged_dir(out) as folder:
        write_model(model, tokenizer, folder, dtype=getattr(torch, dtype))
        settings = model.generation_config
        (folder / "Modelfile").write_text(modelfile(tokenizer, settings, base=None), encoding="utf-8")  # pyright: ignore[reportArgumentType]  # a causal LM has some
        del model
        difference = compare_logits(load_elsewhere(folder, "merged"), prompts, expected)
        require_same_tokens(AutoTokenizer.from_pretrained(folder), tokenizer, prompts)
        if not difference <= allowed:
            raise ModelError(
                f"the folder made of {path} gives logits that are off by {difference:.3g} (allowed: {allowed:.3g}), so "
                "it was not kept; choose a wider dtype, or set --tolerance"
            )
        result = Exported(out, difference, allowed, len(prompts), commands)
        (folder / CARD).write_text(_card(path, result, dtype, str(types)), encoding="utf-8")
        write_manifest(folder)
    return result


def _card(path: Path, result: Exported, dtype: str, types: str) -> str:
    metadata = gguf_header(path).metadata
    known = {"license": metadata.get("general.license"), "language": metadata.get("general.languages")}
    about = {"library_name": "transformers", "pipeline_tag": "text-generation"} | {k: v for k, v in known.items() if v}
    name = metadata.get("general.name") or path.stem
    code = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {str(result.out.resolve())!r}  # where it was written
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
"""
    calls = "\n".join(f"{program}:\n\n    {command}\n" for program, command in result.commands.items())
    words = "" if types == dtype else f", {types}" if types.startswith("dequantised") else f" ({types} in the file)"
    return f"""---
{yaml.safe_dump(about, sort_keys=False).strip()}
---

# {" ".join(result.out.name.split())}

{code_span(str(name))} from the GGUF file {code_span(path.name)} (SHA-256 {hash_file(path)}), written by Preftree
{__version__}. The weights are {dtype} in safetensors format{words}.

{fenced(code, "python")}

Loaded again, its logits differ by at most {result.difference:.3g} (allowed: {result.tolerance:.3g}) from those of the
file's model, on {result.num_prompts} texts, in fp32.

{calls}"""
