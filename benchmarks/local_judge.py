"""Comparisons a second of the local judge beside generating an answer and reading it, with one model on this machine.

    OMP_NUM_THREADS=1 python benchmarks/local_judge.py

A random Llama with a chat template, a rubric of about 300 tokens, both orders of every comparison. The baseline
generates greedily in batches with transformers' cache, and reads the answer with the package's own parser: once
with room for a reason, once for the verdict alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from preftree.judges.llm.local import LocalJudge
from preftree.judges.llm.parse import read_answer
from preftree.judges.llm.prompt import Question
from preftree.judges.llm.rubric import JudgeFile
from preftree.records import Comparison
from support.tokenizers import chat_tokenizer

NAMES = ["A", "B"]
COUNT, BATCH = 32, 16
WITH_REASON, VERDICT_ALONE = 64, 12


def main() -> None:
    """Measure and print a table."""
    tokenizer = chat_tokenizer(texts=[Path(__file__).read_text("utf-8"), Question.instructions.__doc__ or ""])
    tokenizer.padding_side = "left"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=4096,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    file = JudgeFile(model="hf:here", reason="none")
    comparisons = [
        Comparison(f"Question {number}: which of these words is in the list?", f"word {number} " * 8, "none " * 10)
        for number in range(COUNT)
    ]
    turned = [Comparison(one.prompt, one.right, one.left) for one in comparisons]
    questions = [Question(file, one.prompt, (one.left, one.right)) for one in [*comparisons, *turned]]
    texts = [
        tokenizer.apply_chat_template(question.messages(NAMES), tokenize=False, add_generation_prompt=True)
        for question in questions
    ]
    rubric = len(tokenizer(questions[0].instructions(NAMES))["input_ids"])
    whole = len(tokenizer(texts[0])["input_ids"])
    weights = sum(parameter.numel() for parameter in model.parameters())
    threads = torch.get_num_threads()
    print(f"{weights / 1e6:.1f} M weights, rubric {rubric} tokens, question {whole} tokens, {threads} threads")
    for new_tokens, name in ((WITH_REASON, "generate with a reason"), (VERDICT_ALONE, "generate the verdict alone")):
        start = time.perf_counter()
        for place in range(0, len(texts), BATCH):
            batch = tokenizer(texts[place : place + BATCH], return_tensors="pt", padding=True)
            with torch.inference_mode():
                ids = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    do_sample=False,
                    min_new_tokens=new_tokens,
                    max_new_tokens=new_tokens,
                    pad_token_id=tokenizer.pad_token_id,
                )
            replies = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :])
            for reply, question in zip(replies, questions[place : place + BATCH], strict=True):
                read_answer(reply, question, NAMES)
        print(f"{name}, {new_tokens} tokens, and parse: {COUNT / (time.perf_counter() - start):.2f} comparisons/s")
    judge = LocalJudge.of(file, model, tokenizer)
    judge.compare(comparisons[:1])
    judge = LocalJudge.of(file, model, tokenizer)
    start = time.perf_counter()
    judge.compare(comparisons)
    judge.compare(turned)
    print(f"local judge, calibrated: {COUNT / (time.perf_counter() - start):.2f} comparisons/s")


if __name__ == "__main__":
    main()
