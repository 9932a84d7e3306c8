"""`preftree export`: a finished run, or a GGUF file, as a folder that other programs load."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preftree.evaluate.export import Exported


class DtypeName(StrEnum):
    """Types of exported weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or a GGUF file.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", show_default=False)],
    adapter: Annotated[bool, typer.Option("--adapter", help="The adapter alone, as peft and vLLM load it.")] = False,
    merged: Annotated[bool, typer.Option("--merged", help="The whole model, its adapter merged into it.")] = False,
    dtype: Annotated[DtypeName, typer.Option(help="Type of the whole model's weights.")] = DtypeName.float32,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0, help="Largest allowed difference of a logit; by default 0.001, float16 0.05, bfloat16 0.5."
        ),
    ] = None,
) -> None:
    """Write a run's model into OUT, load it again as others do, and keep it only where its logits are the run's own.

    A GGUF file becomes an ordinary model folder, its weights dequantised.

    OUT gets safetensors weights, tokenizer and chat template, a model card with lineage and hashes, and an Ollama
    Modelfile; the commands for vLLM, llama.cpp and Ollama are printed.
    """
    from preftree.errors import ConfigError
    from preftree.models.gguf.header import find_gguf
    from preftree.runtime.logs import quiet_transformers

    quiet_transformers()
    if gguf := find_gguf(run):
        from preftree.evaluate.gguf.to_folder import export_gguf

        if adapter:
            raise ConfigError(f"--adapter is for a run, and {gguf} is a GGUF file of a whole model; leave it out")
        _show(export_gguf(gguf, out, dtype=dtype.value, tolerance=tolerance), "the file's model", "texts")
        return
    if adapter == merged:
        raise ConfigError("export takes one of --adapter and --merged")
    if adapter and dtype is not DtypeName.float32:
        raise ConfigError(f"--dtype {dtype} is for --merged; an adapter stays as it was trained")
    from preftree.evaluate.export import export_run

    exported = export_run(run, out, "adapter" if adapter else "merged", dtype=dtype.value, tolerance=tolerance)
    _show(exported, "the run's own", "prompts of its data")


def _show(exported: Exported, whose: str, on: str) -> None:
    typer.echo(
        f"{exported.out}: logits differ by at most {exported.difference:.3g} from {whose} (allowed: "
        f"{exported.tolerance:.3g}), on {exported.num_prompts} {on}"
    )
    for name, command in exported.commands.items():
        typer.echo(f"\n{name}:\n  {command}")
