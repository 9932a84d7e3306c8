"""`preftree generate MODEL PROMPTS OUT`: responses to a file of prompts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

log = logging.getLogger("preftree")


def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or a hub id.")],
    prompts: Annotated[
        str, typer.Argument(metavar="PROMPTS", help="A data file with a `prompt` in each row, or a .txt file.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Where the responses go.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a response.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most likely token.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest tokens that hold this mass.")] = 1.0,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at once.")] = 32,
    chat: Annotated[bool, typer.Option("--chat", help="Put plain prompts through the chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message of those; implies --chat.")] = None,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of the weights.")] = "fp32",
) -> None:
    """Draw responses to prompts, in batches; the same seed draws the same text for a row however rows are batched.

    Stopped with Ctrl-C it goes on where it was when the same command is given again.
    """
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from preftree.cli.train import quiet_transformers
    from preftree.data.prompts import as_conversation, encode_prompts, read_prompts
    from preftree.generate.hf import hf_sampler
    from preftree.generate.job import describe_job, sample_file
    from preftree.generate.protocol import Sampling
    from preftree.models.load import best_device, load_model, load_tokenizer
    from preftree.reference.key import weights_digest_of_model
    from preftree.train.signals import stop_on_signals

    quiet_transformers()
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    tokenizer = load_tokenizer(model)
    rows = read_prompts(prompts)
    if chat or system is not None:
        rows = as_conversation(rows, system)
    ids = encode_prompts(tokenizer, rows)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    network = load_model(model, dtype=dtype, device=best_device())
    job = describe_job(weights_digest_of_model(network), precision, ids, sampling, samples)
    total = samples * len(rows)
    with Progress(console=Console(stderr=True)) as bar, stop_on_signals() as request:
        task = bar.add_task("responses", total=total)
        done = sample_file(
            hf_sampler(network, tokenizer, batch_size=batch_size),
            rows,
            ids,
            out,
            sampling,
            job,
            samples=samples,
            batch_size=batch_size,
            stop=lambda: request.signum,
            progress=lambda number: bar.update(task, completed=number),
        )
    typer.echo(f"{out}: {done} of {total} responses", err=True)
    if done < total:
        raise typer.Exit(128 + request.signum)
