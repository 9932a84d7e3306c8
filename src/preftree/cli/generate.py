"""`preftree generate MODEL PROMPTS OUT`: responses to a file of prompts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from preftree.cli.shared import (
    JUDGE,
    STOPPING,
    MaxCost,
    Model,
    Precision,
    Samples,
    SamplingTemperature,
    Step,
    TopP,
    announce,
    progress_bar,
    whole_number,
)

if TYPE_CHECKING:
    from preftree.generate.job import BestOf

log = logging.getLogger("preftree")

NUM_SHOTS = 2


def generate(
    model: Model,
    prompts: Annotated[
        str, typer.Argument(metavar="PROMPTS", help="A data file with a `prompt` in each row, or a .txt file.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="File for the responses.")],
    max_new_tokens: Annotated[int, whole_number(min=1, help="Maximum tokens of a response.")] = 256,
    temperature: SamplingTemperature = 1.0,
    top_p: TopP = 1.0,
    samples: Samples = 1,
    seed: Annotated[int, whole_number(min=0, help="Seed of the samples and of the choice of shots.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End a response where this text begins; may be given several times.")
    ] = None,
    best_of: Annotated[
        int | None,
        whole_number(min=1, help="Draw this many for each response, and keep the one with the highest reward."),
    ] = None,
    reward: Annotated[str | None, typer.Option(help=f"For --best-of: {JUDGE}")] = None,
    shots: Annotated[
        str | None, typer.Option(metavar="FILE", help="Put demonstrations of this data file before each prompt.")
    ] = None,
    num_shots: Annotated[int, whole_number(min=1, help="Number of demonstrations.")] = NUM_SHOTS,
    batch_size: Annotated[int, whole_number(min=1, help="Number of rows at once.")] = 32,
    chat: Annotated[bool, typer.Option("--chat", help="Put plain prompts through the chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message of those; implies --chat.")] = None,
    precision: Precision = "fp32",
    max_cost: MaxCost = None,
    engine: Annotated[Literal["hf", "vllm"], typer.Option(help="Engine that samples; vllm is an extra.")] = "hf",
    step: Step = None,
) -> None:
    """Draw responses to prompts, in batches; random numbers belong to the seed and the row, not to the batch.

    After Ctrl-C, the same command continues where it stopped.
    """
    announce(f"responses of {model} to {prompts}, into {out}")
    from preftree.config.read_with import require_read
    from preftree.data.prompts import as_conversation, encode_prompts, read_demonstrations, read_prompts
    from preftree.generate.few_shot import STOP, demonstrations_as_conversation, with_shots
    from preftree.generate.hf import load_sampler
    from preftree.generate.job import describe_job, sample_file
    from preftree.generate.protocol import Sampling
    from preftree.models.load import load_tokenizer
    from preftree.runtime.logs import quiet_transformers
    from preftree.runtime.signals import stop_on_signals
    from preftree.train.step_model import model_at

    samples_freely, has_shots = temperature > 0, shots is not None
    require_read("--num-shots", num_shots != NUM_SHOTS, has_shots, "--shots")
    require_read("--seed", seed != 0, samples_freely or has_shots, "a temperature above 0, or --shots")
    require_read("--top-p", top_p != 1, samples_freely, "a temperature above 0")
    quiet_transformers()
    model = model_at(model, step)
    stops = tuple(stop or ())
    best = best_of_many(best_of, reward, temperature, max_cost)
    tokenizer = load_tokenizer(model)
    rows = questions = read_prompts(prompts)
    if chat or system is not None:
        rows = questions = as_conversation(rows, system)
    if shots is not None:
        shown = read_demonstrations(shots)
        shown = demonstrations_as_conversation(shown) if chat or system is not None else shown
        questions = with_shots(rows, shown, num_shots, seed=seed)
        if any(isinstance(row.text, str) for row in rows):
            stops = tuple(dict.fromkeys((*stops, STOP)))
    sampling = Sampling(max_new_tokens, temperature, top_p, seed, stops)
    ids = encode_prompts(tokenizer, questions)
    if engine == "vllm":
        from preftree.generate.vllm import folder_digest, vllm_sampler

        sampler, weights = vllm_sampler(model, tokenizer, precision=precision), folder_digest(model)
    else:
        sampler, weights = load_sampler(model, tokenizer, precision=precision, batch_size=batch_size)
    job = describe_job(weights, precision, ids, sampling, samples, best_of=best, engine=engine)
    total = samples * len(rows)
    with progress_bar("responses", total) as show, stop_on_signals(STOPPING) as request:
        done = sample_file(
            sampler,
            rows,
            ids,
            out,
            sampling,
            job,
            samples=samples,
            batch_size=batch_size,
            best_of=best,
            stop=lambda: request.signum,
            progress=show,
        )
    more = "" if done == total else "; the same command goes on from there"
    typer.echo(f"{out}: {done} of {total} responses{more}", err=True)
    if done < total:
        raise typer.Exit(128 + request.signum)
    if best is not None:
        typer.echo(describe_best_of(out), err=True)


def best_of_many(
    num: int | None, reward: str | None, temperature: float, max_cost: float | None = None
) -> BestOf | None:
    """Best-of-N from the options.

    Raises:
      ConfigError: one of the two is missing, all of N would be the same text, or there is no such reward.
    """
    from preftree.errors import ConfigError
    from preftree.generate.job import BestOf
    from preftree.judges.functions import identify
    from preftree.judges.llm.bill import Asking
    from preftree.judges.rewards import load_rewards

    if num is None and reward is None:
        return None
    if num is None or reward is None:
        raise ConfigError("--best-of and --reward go together: how many are drawn, and what says which is the best")
    if temperature == 0 and num > 1:
        raise ConfigError(f"--best-of {num} needs a temperature > 0: at 0 all {num} responses are the same text")
    rewards = load_rewards(reward, how=Asking(max_cost), in_groups=True)
    return BestOf(num, rewards, identify(reward))


def describe_best_of(out: Path) -> str:
    """Mean reward of the best of fewer, from the rewards of all responses drawn."""
    import json
    import math

    import numpy as np

    from preftree.evaluate.best_of import expected_best

    with out.open(encoding="utf-8") as file:
        rewards = [json.loads(line)["rewards"] for line in file]
    whole = [values for values in rewards if None not in values]
    if not whole:
        return f"no response has rewards for all of its {len(rewards[0])} draws, so nothing is said of fewer"
    table = expected_best(np.array(whole)).mean(axis=0)
    sizes = [2**power for power in range(len(table).bit_length()) if 2**power < len(table)] + [len(table)]
    figures = [f"{n}: {table[n - 1]:.4g} (KL at most {math.log(n) - (n - 1) / n:.2f})" for n in sizes]
    gaps = f", without {len(rewards) - len(whole)} of {len(rewards)} rows that lack a reward" * (
        len(whole) < len(rewards)
    )
    return f"mean reward of the best of {', '.join(figures)}{gaps}"
