"""Tokenizers with chat templates of the kinds that models have: ChatML, with thoughts, and with tools."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from support.tokenizers import CHAT_TEMPLATE, chat_tokenizer

THOUGHTS = """{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m.role != 'assistant' -%}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- else -%}
{%- set content = m.content -%}{%- set thought = '' -%}
{%- if m.reasoning_content is string -%}{%- set thought = m.reasoning_content -%}
{%- elif '</think>' in content -%}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') -%}
{%- set content = content.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}
{{- '<|im_start|>assistant\n' -}}
{%- if loop.index0 > ns.last -%}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{%- endif -%}
{{- content + '<|im_end|>\n' -}}
{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\nOPEN' }}
{%- if enable_thinking is defined and not enable_thinking -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}
{%- endif -%}"""
TOOLS = """{%- if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif -%}
{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + m.content }}
{%- for call in m.tool_calls or [] -%}{{ '<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{%- endfor -%}
{{- '<|im_end|>\n' }}{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}"""


def tokenizer_of(template: str, *added: str) -> PreTrainedTokenizerFast:
    tokenizer = chat_tokenizer(template=template)
    tokenizer.add_tokens(list(added), special_tokens=False)
    return tokenizer


def opening() -> PreTrainedTokenizerFast:
    return tokenizer_of(THOUGHTS.replace("OPEN", "<think>\\n"), "<think>", "</think>")


CHATML = tokenizer_of(CHAT_TEMPLATE)
THINKS = tokenizer_of(THOUGHTS.replace("OPEN", ""), "<think>", "</think>")
OPENS = opening()
CALLS = tokenizer_of(TOOLS, "<tool_call>", "</tool_call>")
