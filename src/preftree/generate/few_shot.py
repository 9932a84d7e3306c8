"""Few-shot prompts: demonstrations before a prompt, for a model that is not trained on them.

Plain text:      prompt1 response1 SEPARATOR prompt2 response2 SEPARATOR prompt; a response ends where STOP begins.
Conversations:   the turns of each demonstration come before the turns of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from preftree.data.prompts import Prompt, prompt_key
from preftree.errors import ConfigError, DataError
from preftree.records import Conversation, Demonstration, Message, Provenance, Text, template_options_of, tools_of

SEPARATOR = "\n\n###\n\n"
STOP = SEPARATOR.rstrip()
"""Stop text of a response to plain text: a model that continues after it writes another demonstration."""

Shot = tuple[Provenance, Demonstration]


def with_shots(prompts: Sequence[Prompt], shots: Sequence[Shot], num: int, *, seed: int) -> list[Prompt]:
    """Prompts with `num` demonstrations before each: the same for all, except that none repeats the prompt itself.

    Args:
      prompts: The prompts.
      shots: Demonstrations to choose from; only the first for each of their prompts is used.
      num: Number of demonstrations before a prompt.
      seed: Seed of the choice and its order.
    Raises:
      ConfigError: there are too few demonstrations.
      DataError: a demonstration is plain text and the prompt a conversation, or the other way round; it holds the
        separator, or a system message other than the prompt's.
    """
    different = list({_question(shot.prompt): (where, shot) for where, shot in reversed(shots)}.values())[::-1]
    order = np.random.default_rng(seed).permutation(len(different)).tolist()
    # One more than is needed: the prompt itself may be among them.
    chosen = [different[index] for index in order[: num + 1]]
    keys = [_question(shot.prompt) for _, shot in chosen]
    results = []
    for prompt in prompts:
        asked = _question(prompt.text)
        others = [shot for key, shot in zip(keys, chosen, strict=True) if key != asked][:num]
        if len(others) < num:
            raise ConfigError(
                f"--num-shots asks for {num} demonstrations, and there are {len(others)} of prompts other than that of "
                f"{prompt.where}; give more, or ask for fewer"
            )
        results.append(replace(prompt, text=_joined(others, prompt)))
    return results


def _question(prompt: Text) -> str:
    """A key that is equal for prompts that ask the same, whatever stands around the question."""
    return prompt_key(prompt if isinstance(prompt, str) else tuple(turn for turn in prompt if not _is_system(turn)))


def demonstrations_as_conversation(shots: Sequence[Shot]) -> list[Shot]:
    """Plain demonstrations as a message of the user and one of the assistant; conversations unchanged."""
    return [
        (where, replace(shot, prompt=(Message("user", shot.prompt),), response=(Message("assistant", shot.response),)))
        if isinstance(shot.prompt, str) and isinstance(shot.response, str)
        else (where, shot)
        for where, shot in shots
    ]


def _joined(shots: Sequence[Shot], prompt: Prompt) -> Text:
    text = prompt.text
    for where, shot in shots:
        if isinstance(shot.prompt, str) != isinstance(text, str):
            kinds = ("plain text", "a conversation")
            raise DataError(
                f"{where} is {kinds[not isinstance(shot.prompt, str)]} and the prompt of {prompt.where} is "
                f"{kinds[not isinstance(text, str)]}; give demonstrations of the prompts' kind, or --chat"
            )
    if isinstance(text, str):
        return "".join(_plain(where, shot) + SEPARATOR for where, shot in shots) + text
    system = tuple(turn for turn in text if _is_system(turn))
    turns = tuple(turn for where, shot in shots for turn in _turns(where, shot, system))
    whole = (*system, *turns, *(turn for turn in text if not _is_system(turn)))
    return Conversation(whole, tools_of(text), template_options_of(text))


def _plain(where: Provenance, shot: Demonstration) -> str:
    whole = f"{shot.prompt}{shot.response}"
    if STOP in whole:
        raise DataError(f"{where} holds {STOP!r}, the separator of demonstrations; remove it")
    return whole


def _turns(where: Provenance, shot: Demonstration, system: tuple[Message, ...]) -> tuple[Message, ...]:
    assert not isinstance(shot.prompt, str) and not isinstance(shot.response, str)  # checked by the caller
    turns = (*shot.prompt, *shot.response)
    if (messages := tuple(turn for turn in turns if _is_system(turn))) and messages != system:
        raise DataError(f"{where} has a system message that the prompts do not have; remove it, or give it to both")
    return tuple(turn for turn in turns if not _is_system(turn))


def _is_system(turn: Message) -> bool:
    return turn.role in ("system", "developer")
