"""What the benchmarks of speed and memory share: random models and pairs, our step, TRL's trainer, figures."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Mean tokens of prompt, chosen and rejected, responses to a prompt, and the spread of the logarithm of lengths.
# `system` tokens stand before every prompt; of a dialogue of several `turns` each answer is a row, after those before.
PROFILES: dict[str, dict[str, Any]] = {
    "hh": {"prompt": 120, "responses": (42, 53), "spread": 0.8},
    "ultrafeedback": {"prompt": 190, "responses": (330, 330), "spread": 0.5},
    "summarize": {"prompt": 370, "responses": (32, 32), "spread": 0.3},
    "k4": {"prompt": 120, "responses": (48, 48, 48, 48), "spread": 0.6},
    "long": {"prompt": 3600, "responses": (200, 200), "spread": 0.1},
    "system": {"prompt": 120, "responses": (42, 53), "spread": 0.8, "system": 1260},
    "tools": {"prompt": 60, "responses": (48, 48), "spread": 0.5, "system": 400, "turns": 4},
}
# width, intermediate, layers, heads; the last two are for a GPU
SIZES = {
    "9m": (256, 688, 6, 4),
    "31m": (384, 1024, 12, 6),
    "110m": (768, 2048, 12, 12),
    "0.5b": (1280, 3456, 24, 20),
    "1.5b": (2048, 5632, 28, 16),
}
VOCABULARY = 16_000
BETA, BUDGET = 0.1, 8192


def make_model(folder: Path, size: str) -> None:
    """A tokenizer of one token a word, and a random Llama."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", *(f"w{number}" for number in range(VOCABULARY - 3))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)
    width, inner, layers, heads = SIZES[size]
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=8192,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).save_pretrained(folder)


def make_pairs(path: Path, profile: dict[str, Any], number: int) -> None:
    """Pairs of random words; where a prompt has more than two responses, all their pairs; each turn of a dialogue."""
    rng = np.random.default_rng(0)

    def text(mean: float) -> str:
        spread = profile["spread"]
        length = int(np.exp(rng.normal(np.log(mean) - spread**2 / 2, spread)))
        return " ".join(f"w{number}" for number in rng.integers(0, VOCABULARY - 3, max(2, min(length, 4 * mean))))

    system = " ".join(f"w{word}" for word in rng.integers(0, VOCABULARY - 3, profile.get("system", 0)))
    rows: list[dict[str, str]] = []
    while len(rows) < number:
        prompt = f"{system} " if system else ""
        for _ in range(profile.get("turns", 1)):
            prompt, responses = f"{prompt}{text(profile['prompt'])} ", [text(mean) for mean in profile["responses"]]
            rows += [
                {"prompt": prompt, "chosen": responses[i], "rejected": responses[j]}
                for i in range(len(responses))
                for j in range(i + 1, len(responses))
            ]
            prompt += f"{responses[0]} "
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:number]))


def prepare(options: argparse.Namespace) -> None:
    """The model and the pairs that the options name, in `options.folder`."""
    make_model(options.folder / "model", options.size)
    make_pairs(options.folder / "pairs.jsonl", PROFILES[options.profile], options.pairs)


@dataclass(frozen=True, slots=True)
class Bench:
    """A policy with its data and its reference, ready to take steps.

    Attributes:
      scorer, store: The policy and the pairs.
      step: Takes one update on some rows of the data.
      seconds: Of the reference pass, and of asking for the reference again.
      forwards: Micro-batches that the reference pass scored, and that asking again scored.
    """

    scorer: Any
    store: Any
    step: Callable[[Sequence[int] | np.ndarray], Any]
    seconds: dict[str, float]
    forwards: tuple[int, int]


def ready(
    options: argparse.Namespace,
    ranks: Any,
    *,
    lr: float,
    budget: int = BUDGET,
    adapt: Callable[[Any], Any] = lambda model: None,
    compiled: bool = False,
    quantize: Any = None,
) -> Bench:
    """Tokenise, score the reference, and set up the step as `preftree dpo` does."""
    import torch

    from preftree.data.tokens.tokenize import tokenize_file
    from preftree.losses import bind
    from preftree.models.adapters import adapter_off, trained_parameters
    from preftree.models.load import load_base, load_tokenizer
    from preftree.reference.build import build_reference
    from preftree.reference.key import table_key, weights_digest
    from preftree.reference.protocol import TableReference
    from preftree.reference.store import ReferenceTable
    from preftree.scoring.scorer import Scorer
    from preftree.train.objective import Objective, WeightedLoss
    from preftree.train.preference_task import PreferenceTask
    from preftree.train.step.batch import Batch
    from preftree.train.step.update import take_step

    folder = options.folder
    model = load_base(folder / "model", quantize=quantize, device=ranks.device)
    adapt(model)
    scorer = Scorer(model, precision=options.precision)
    if compiled:
        scorer.compile_layers()
    store, _ = tokenize_file(
        str(folder / "pairs.jsonl"), load_tokenizer(folder / "model"), kind="pair", cache_dir=folder / "cache"
    )
    key = table_key(weights_digest(folder / "model", memo=folder / "cache"), scorer.numeric_mode)
    table = ReferenceTable.open(folder / "cache", key)
    sequences = [store[index].sequences for index in range(len(store))]
    with adapter_off(model):
        first = build_reference(table, scorer, sequences, budget=budget)
        again = build_reference(ReferenceTable.open(folder / "cache", key), scorer, sequences, budget=budget)
    seconds = {"reference": first.seconds, "reference of a second beta": again.seconds}
    task = PreferenceTask(Objective((WeightedLoss(bind("dpo", {"beta": BETA})),)), TableReference(table))
    optimizer = torch.optim.AdamW(trained_parameters(model).values(), lr=lr, weight_decay=0.0, fused=True)

    def step(rows: Sequence[int] | np.ndarray) -> Any:
        batch = Batch(task, store, np.asarray(rows))
        return take_step(batch, scorer, optimizer, budget=budget, max_grad_norm=1.0, ranks=ranks)

    return Bench(scorer, store, step, seconds, (first.num_forwards, again.num_forwards))


def trl_trainer(options: argparse.Namespace, at_once: int, lr: float, **more: Any) -> tuple[Any, list[float]]:
    """TRL's trainer as it is fastest here, on the pairs in their order; and the seconds of its steps as they come.

    The first batch stands once more in front: the step that warms up, as ours.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *_: object) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    seconds: list[float] = []

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *_: object, **__: object) -> None:
            self.began = now()

        def on_step_end(self, *_: object, **__: object) -> None:
            seconds.append(now() - self.began)

    folder = options.folder
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=options.batch // at_once,
        num_train_epochs=1,
        learning_rate=lr,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=1.0,
        beta=BETA,
        max_length=None,
        optim="adamw_torch_fused",
        bf16=options.precision == "bf16",
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = InOrder(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(rows[: options.batch] + rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Clock()],
        **more,
    )
    return trainer, seconds


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_mib() -> float:
    """The most memory of this process: on the GPU where there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def floor(model: Any, tokens: int, scored: int, precision: str, *, clock: Callable[[], float] = now) -> float:
    """Seconds of a step's matrix products alone: forward and twice that for the backward, best of 5 each."""
    import torch

    from preftree.scoring.bf16_on_cpu import emulated

    device = next(model.parameters()).device
    # Where bf16 is emulated its products run in fp32: faster than those of torch, and so the floor.
    dtype = torch.bfloat16 if precision == "bf16" and not emulated(device) else torch.float32
    total = 0.0
    known: dict[tuple[int, ...], float] = {}
    for name, weight in model.named_parameters():
        if weight.ndim != 2 or "embed" in name:
            continue
        rows = scored if name.startswith("lm_head") else tokens
        shape = (rows, *weight.shape)
        if shape not in known:
            x, g = (torch.randn(rows, size, dtype=dtype, device=device) for size in reversed(weight.shape))
            w = torch.randn(weight.shape, dtype=dtype, device=device)
            times = []
            for _ in range(5):
                began = clock()
                _ = x @ w.T, g @ w, g.T @ x
                times.append(clock() - began)
            known[shape] = min(times)
        total += known[shape]
    return total
