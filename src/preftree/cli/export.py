"""`preftree export`: a finished run, or a GGUF file, as a folder that other programs load."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preftree.cli.shared import Step, announce

if TYPE_CHECKING:
    from preftree.evaluate.export import Exported


class GgufName(StrEnum):
    """Types of the matrices in a GGUF file."""

    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"


class DtypeName(StrEnum):
    """Types of exported weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN[@STEP]",
            help="Folder of a finished run, a step of any run, or a GGUF file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", show_default=False)],
    adapter: Annotated[bool, typer.Option("--adapter", help="The adapter alone, as peft and vLLM load it.")] = False,
    merged: Annotated[bool, typer.Option("--merged", help="The whole model, its adapter merged into it.")] = False,
    gguf: Annotated[
        GgufName | None,
        typer.Option(help="The whole model as a GGUF file for llama.cpp and Ollama.", show_default=False),
    ] = None,
    dtype: Annotated[DtypeName, typer.Option(help="Type of the whole model's weights.")] = DtypeName.float32,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Most that a logit may differ. Default: .001; float16 .05, bfloat16 .5; f16 .1, bf16 .5, q8_0 2.",
        ),
    ] = None,
    step: Step = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="Push OUT to the Hugging Face hub, as a private model.", show_default=False
        ),
    ] = None,
) -> None:
    """Write a run's model into OUT, load it again as others do, and keep it only where its logits are the run's own.

    A GGUF file becomes an ordinary model folder, its weights dequantised; with --gguf a run becomes a GGUF file.

    OUT gets safetensors weights, tokenizer and chat template, a model card with lineage and hashes, and an Ollama
    Modelfile; the commands for vLLM, llama.cpp and Ollama are printed.
    """
    announce(f"export of {run} into {out}")
    from preftree.errors import ConfigError
    from preftree.models.gguf.header import find_gguf
    from preftree.models.on_hub import require_login
    from preftree.run_folder.steps import split_step
    from preftree.runtime.logs import quiet_transformers

    quiet_transformers()
    if push is not None:
        require_login(push)
    name, step = split_step(str(run), step)
    run = Path(name if step is None else f"{name}@{step}")
    if file := find_gguf(run):
        from preftree.evaluate.gguf.to_folder import export_gguf

        if adapter or gguf:
            option = "--adapter" if adapter else f"--gguf {gguf}"
            raise ConfigError(f"{option} is for a run, and {file} is a GGUF file of a whole model; leave it out")
        _show(export_gguf(file, out, dtype=dtype.value, tolerance=tolerance), "the file's model", "texts", push)
        return
    if adapter + merged + (gguf is not None) != 1:
        raise ConfigError("export takes one of --adapter, --merged and --gguf f16, bf16 or q8_0")
    if not merged and dtype is not DtypeName.float32:
        why = f"--gguf {gguf} says the type" if gguf else "an adapter stays as it was trained"
        raise ConfigError(f"--dtype {dtype} is for --merged; {why}")
    if gguf:
        from preftree.evaluate.gguf.to_file import export_run_gguf

        _show(export_run_gguf(run, out, gguf.value, tolerance=tolerance), "the run's own", "prompts of its data", push)
        return
    from preftree.evaluate.export import export_run

    exported = export_run(run, out, "adapter" if adapter else "merged", dtype=dtype.value, tolerance=tolerance)
    _show(exported, "the run's own", "prompts of its data", push)


def _show(exported: Exported, whose: str, on: str, push: str | None) -> None:
    typer.echo(
        f"{exported.out}: logits differ by at most {exported.difference:.3g} from {whose} (allowed: "
        f"{exported.tolerance:.3g}), on {exported.num_prompts} {on}"
    )
    for name, command in exported.commands.items():
        typer.echo(f"\n{name}:\n  {command}")
    if push is not None:
        from preftree.models.on_hub import push_folder

        typer.echo(f"\npushed: {push_folder(exported.out, push)}")
