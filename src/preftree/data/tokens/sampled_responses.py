"""Token ids of sampled responses and their prompts, rendered and trimmed as in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from preftree.data.rows.faults import RowFault
from preftree.data.tokens.budgets import Budgets, Truncation, fit
from preftree.data.tokens.encoder import Encoder, Ids
from preftree.data.tokens.template import check_template, closing_token, render
from preftree.records import Message, Text


def encode_answers(
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    prompts: Sequence[Text],
    responses: Sequence[str],
    *,
    budgets: Budgets,
    truncation: Truncation,
) -> tuple[list[Ids], list[Ids], list[bool]]:
    """Token ids of prompts and of responses with their end token, as for the rows of a data file.

    A plain text is unchanged; an empty response becomes an end-of-sequence token. With truncation=drop nothing is
    trimmed, since there is no row to drop. A model may write what no row of a file may hold: special tokens, or marks
    that the chat template rewrites. Such an answer in a conversation is read as text: after the rendered prompt, as it
    stands, without its special tokens, with the token that closes a turn.

    Args:
      tokenizer: Tokenizer with the chat template.
      encoder: Encoder of the tokenizer.
      prompts: The prompts.
      responses: One response to each, as text.
      budgets: Length budgets of the training run.
      truncation: Truncation policy of the training run.
    Returns:
      Ids of the prompts, ids of the responses, and which of the responses were read as text.
    Raises:
      RowFault: the template refuses a prompt, or a prompt is too long to be trimmed.
      DataError: a prompt is a conversation, and there is no template.
    """
    heads: list[str] = []
    tails: list[list[str]] = []
    closed: list[bool] = []
    as_text: list[bool] = []
    for prompt, response in zip(prompts, responses, strict=True):
        if isinstance(prompt, str):
            heads.append(prompt)
            tails.append([response])
            closed.append(False)
            as_text.append(False)
            continue
        check_template(tokenizer, "the prompt")
        try:
            texts = render(tokenizer, encoder, prompt, [("response", (Message("assistant", response),))], sampled=True)
        except RowFault as fault:
            if fault.field != "response":
                raise
            heads.append(render(tokenizer, encoder, prompt, []).prompt)
            tails.append([response])
            closed.append(False)
            as_text.append(True)
            continue
        (parts,) = texts.responses
        heads.append(texts.prompt)
        tails.append([part.text for part in parts])
        closed.append(parts[-1].closed)
        as_text.append(False)
    pieces = iter(encoder.later([text for tail in tails for text in tail]))
    firsts = encoder.first(heads)
    prompt_ids: list[Ids] = []
    response_ids: list[Ids] = []
    closing, marks = closing_token(tokenizer), list(encoder.special_ids)
    for prompt, first, tail, is_closed, raw in zip(prompts, firsts, tails, closed, as_text, strict=True):
        start = np.array((encoder.start if len(first) else encoder.empty) if isinstance(prompt, str) else (), np.int32)
        last = closing if raw and closing is not None else encoder.eos
        end = np.array(() if is_closed else (last,), np.int32)
        texts_ids = [next(pieces) for _ in tail]
        if raw:
            texts_ids = [piece[~np.isin(piece, marks)] for piece in texts_ids]
        ids = np.concatenate([start, first]), np.concatenate([*texts_ids, end])
        if truncation != "drop":
            ids = _cut(*ids, encoder, budgets, truncation)
        prompt_ids.append(ids[0])
        response_ids.append(ids[1])
    return prompt_ids, response_ids, as_text


def _cut(prompt: Ids, response: Ids, encoder: Encoder, budgets: Budgets, truncation: Truncation) -> tuple[Ids, Ids]:
    width = len(encoder.empty)
    start = width if tuple(prompt[:width].tolist()) == encoder.empty else 0
    kept = fit(len(prompt), [len(response)], start=start, budgets=budgets, truncation=truncation)
    if kept.cut_prompt:
        prompt = np.concatenate([prompt[:start], prompt[start + kept.cut_prompt :]])
    return prompt, response[: kept.kept[0] or len(response)]
