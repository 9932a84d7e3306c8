"""Token ids of sampled responses and their prompts, rendered and cut as in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.data.tokens.budgets import Budgets, Truncation, fit
from preftree.data.tokens.encoder import Encoder, Ids
from preftree.data.tokens.template import check_template, render
from preftree.records import Message, Text


def encode_answers(
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    prompts: Sequence[Text],
    responses: Sequence[str],
    *,
    budgets: Budgets,
    truncation: Truncation,
) -> tuple[list[Ids], list[Ids]]:
    """Token ids of prompts and of responses, the token that ends a response with it, as a data file's would be.

    A plain text is taken unchanged, an empty response among them: it is an end-of-sequence token. With
    truncation=drop nothing is cut, since there is no row to drop.

    Args:
      tokenizer: Renders conversations.
      encoder: Of that tokenizer.
      prompts: What was asked.
      responses: One answer to each, as text.
      budgets: Of the training run.
      truncation: Of the training run.
    Raises:
      RowFault: the template refuses a conversation, or a prompt is too long to be cut.
      DataError: a prompt is a conversation, and there is no template.
    """
    heads: list[str] = []
    tails: list[list[str]] = []
    closed: list[bool] = []
    for prompt, response in zip(prompts, responses, strict=True):
        if isinstance(prompt, str):
            heads.append(prompt)
            tails.append([response])
            closed.append(False)
            continue
        check_template(tokenizer, "the prompt")
        texts = render(tokenizer, encoder, prompt, [("response", (Message("assistant", response),))], sampled=True)
        (parts,) = texts.responses
        heads.append(texts.prompt)
        tails.append([part.text for part in parts])
        closed.append(parts[-1].closed)
    pieces = iter(encoder.later([text for tail in tails for text in tail]))
    firsts = encoder.first(heads)
    shown: list[Ids] = []
    answers: list[Ids] = []
    for prompt, first, tail, whole in zip(prompts, firsts, tails, closed, strict=True):
        start = np.array((encoder.start if len(first) else encoder.empty) if isinstance(prompt, str) else (), np.int32)
        end = np.array(() if whole else (encoder.eos,), np.int32)
        answer = np.concatenate([*(next(pieces) for _ in tail), end])
        asked = np.concatenate([start, first])
        if truncation != "drop":
            asked, answer = _cut(asked, answer, encoder, budgets, truncation)
        shown.append(asked)
        answers.append(answer)
    return shown, answers


def _cut(prompt: Ids, response: Ids, encoder: Encoder, budgets: Budgets, truncation: Truncation) -> tuple[Ids, Ids]:
    width = len(encoder.empty)
    start = width if tuple(prompt[:width].tolist()) == encoder.empty else 0
    kept = fit(len(prompt), [len(response)], start=start, budgets=budgets, truncation=truncation)
    if kept.cut_prompt:
        prompt = np.concatenate([prompt[:start], prompt[start + kept.cut_prompt :]])
    return prompt, response[: kept.kept[0] or len(response)]
