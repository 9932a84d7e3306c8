"""Templates for models without one, so that they can be talked to: `hh`, `chatml`, or a file.

hh       the transcripts of Anthropic's HH data: a model trained on such text continues after `\\n\\nAssistant:`
chatml   `<|im_start|>role`, the content and `<|im_end|>`, as text where the tokenizer has no such tokens
FILE     a Jinja template as tokenizers hold it
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from preftree.errors import ConfigError

_HH = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ '\\n\\nAssistant: ' + message.content | trim }}"
    "{% elif message.role == 'user' %}{{ '\\n\\nHuman: ' + message.content | trim }}"
    "{% else %}{{ raise_exception('transcripts have no ' + message.role + ' turns') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_NAMED = {"hh": (_HH, "\n\nHuman:"), "chatml": (_CHATML, "<|im_end|>")}
"""Each template with the text at which an answer ends."""


def give_template(tokenizer: PreTrainedTokenizerBase, template: str, model: str) -> tuple[str, ...]:
    """Give a tokenizer without a chat template one, for this process; returns the texts at which answers end.

    A token that the tokenizer puts before every text comes before the conversation, too, as it did in training.

    Args:
      tokenizer: The tokenizer.
      template: `hh`, `chatml`, or a file.
      model: Name of its model.
    Raises:
      ConfigError: the tokenizer has a template of its own, or there is no such file.
    """
    if tokenizer.chat_template:
        raise ConfigError(f"{model} has a chat template of its own; leave --template out")
    text, *stops = _NAMED.get(template, ("",))
    if not text:
        try:
            text = Path(template).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--template is hh, chatml or a file of a Jinja template, got {template!r}") from error
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    tokenizer.chat_template = ("{{ bos_token }}" if begins and template in _NAMED else "") + text
    return tuple(stops)
