"""{"prompt": [...], "chosen": [...], "rejected": [...]}: message lists, with an explicit or implicit prompt.

Where `prompt` is absent, or is text beside whole conversations (as in the binarised UltraFeedback), both sides are
whole conversations; the prompt is their common part up to the first assistant turn that differs.
"""

from __future__ import annotations

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, messages, preference, prompt_messages, response_messages, take, text
from preftree.records import Message, Preference


def detect(row: Row) -> bool:
    """Whether a side is a list."""
    sides = row.get("chosen"), row.get("rejected")
    return None not in sides and any(isinstance(side, list) for side in sides)


def read(row: Row) -> Preference:
    """One pair of conversations."""
    chosen = take(row, messages, "chosen")
    rejected = take(row, messages, "rejected")
    value = row.get("prompt")
    if isinstance(value, list):
        prompt = prompt_messages(messages(value, "prompt"), "prompt")
        chosen = _after(prompt, chosen, "chosen")
        rejected = _after(prompt, rejected, "rejected")
    else:
        question = None if value is None else text(value, "prompt")
        if question is not None and all(side[:1] and side[0].role == "assistant" for side in (chosen, rejected)):
            prompt = (Message("user", question),)
        else:
            start = _response_start(chosen, rejected)
            prompt, chosen, rejected = prompt_messages(chosen[:start], "chosen"), chosen[start:], rejected[start:]
            if question is not None and question.strip() not in (m.content.strip() for m in prompt if m.role == "user"):
                raise RowFault("prompts_differ", "prompt", "'prompt' is not a user turn of 'chosen' and 'rejected'")
    chosen = response_messages(chosen, "chosen")
    rejected = response_messages(rejected, "rejected")
    return preference(row, prompt, ("chosen", chosen), ("rejected", rejected))


def _after(prompt: tuple[Message, ...], side: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """The response, also where its field repeats the prompt before it."""
    if not side or side[0].role == "assistant":
        return side
    if side[: len(prompt)] != prompt:
        raise RowFault("prompts_differ", where, f"'{where}' begins with another conversation than 'prompt'")
    return side[len(prompt) :]


def _response_start(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> int:
    """Start of the responses: the first assistant turn that differs, or the last shared one where a side ends."""
    shared = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        shared += 1
    if shared < min(len(chosen), len(rejected)):
        if chosen[shared].role != "assistant" or rejected[shared].role != "assistant":
            message = f"'chosen' and 'rejected' first differ at message {shared}, which is not the assistant's in both"
            raise RowFault("prompts_differ", "rejected", message)
        return shared
    return max((index for index in range(shared) if chosen[index].role == "assistant"), default=0)
