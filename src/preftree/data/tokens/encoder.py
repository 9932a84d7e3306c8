"""Encoder of texts: a response has the same token ids whatever comes before it.

A tokenizer of the SentencePiece kind puts a space in front of every text it is given. At the beginning of a sequence
that is how the model was trained, and stays. In front of a response it would be a space that is not in the data, so a
copy of the tokenizer without it encodes responses. The tokenizer never adds special tokens here: they are added once,
by id.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from preftree.data.tokens.template_facts import TemplateFacts, any_of, learn_template
from preftree.errors import ModelError

Ids: TypeAlias = np.ndarray  # int32, one dimension
Encode: TypeAlias = Callable[[Sequence[str]], list[Ids]]


@dataclass(frozen=True, slots=True)
class Encoder:
    """The functions and special tokens of one tokenizer.

    Attributes:
      first: Encodes texts that begin a sequence.
      later: Encodes texts that follow another: no dummy space.
      start: Special tokens that the tokenizer itself puts before plain text; a BOS, or nothing.
      empty: What an empty prompt becomes, since nothing predicts the first token: the BOS, or the EOS where none is.
      eos: End of sequence.
      unknown: Token for text that the vocabulary lacks; None where there is none, or where it is BOS or EOS.
      special: Finds special tokens that are written out in a text.
      added: Finds any token that is encoded whole wherever it is written, special or not; one of them closes a turn.
      special_ids: The special tokens by id.
      normalises: Whether a text may become a token that is not written in it, by NFKC or lower case for example.
      facts: What the chat template writes by itself; learned when it is first asked for.
      digest: Identity of all this.
    """

    first: Encode
    later: Encode
    start: tuple[int, ...]
    empty: tuple[int, ...]
    eos: int
    unknown: int | None
    special: re.Pattern[str]
    added: re.Pattern[str]
    special_ids: Mapping[int, str]
    normalises: bool
    facts: Callable[[], TemplateFacts]
    digest: str


def make_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """Take a tokenizer apart into what tokenisation needs.

    Raises:
      ModelError: it has no EOS, or it is a Python tokenizer that puts a space before every text.
    """
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError(f"{_name(tokenizer)} has no EOS token, which ends every response; set eos_token in its folder")
    special = {str(token) for token in tokenizer.all_special_tokens}
    special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    by_id = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    added = special | set(by_id.values())
    if isinstance(tokenizer, TokenizersBackend):
        whole = json.loads(tokenizer.backend_tokenizer.to_str())
        first = _fast(tokenizer.backend_tokenizer.to_str())
        normalises = whole.get("normalizer") is not None and any(t["normalized"] for t in whole["added_tokens"])
        bare = _without_dummy_space(whole)
        later = _fast(json.dumps(bare)) if bare != whole else first
        identity = json.dumps(whole, sort_keys=True)
    else:
        first = later = _slow(tokenizer)
        normalises = True
        if tokenizer.convert_ids_to_tokens(first(["a"])[0].tolist())[0][:1] in ("\u2581", "\u0120"):
            raise ModelError(
                f"{_name(tokenizer)} puts a space before every text; give its fast version, with a tokenizer.json"
            )
        identity = json.dumps(tokenizer.get_vocab(), sort_keys=True) + type(tokenizer).__qualname__
    start = _start(tokenizer, first(["a"])[0])
    bos = tokenizer.bos_token_id if isinstance(tokenizer.bos_token_id, int) else tokenizer.eos_token_id
    unknown = tokenizer.unk_token_id
    versions = (tokenizers.__version__, transformers.__version__)
    parts = [
        identity,
        sorted(special),
        sorted(added),
        start,
        bos,
        tokenizer.eos_token_id,
        tokenizer.chat_template,
        versions,
    ]
    return Encoder(
        first=first,
        later=later,
        start=start,
        empty=start or (bos,),
        eos=tokenizer.eos_token_id,
        unknown=unknown if isinstance(unknown, int) and unknown not in (bos, tokenizer.eos_token_id) else None,
        special=any_of(special),
        added=any_of(added),
        special_ids={number: token for number, token in by_id.items() if token in special},
        normalises=normalises,
        facts=functools.cache(lambda: learn_template(tokenizer, later, by_id)),
        digest=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
    )


def _fast(serialised: str) -> Encode:
    """A copy without the tokenizer's padding and truncation settings, which later changes do not reach."""
    copy = tokenizers.Tokenizer.from_str(serialised)
    copy.no_truncation()
    copy.no_padding()

    def encode(texts: Sequence[str]) -> list[Ids]:
        return [np.array(e.ids, np.int32) for e in copy.encode_batch_fast(list(texts), add_special_tokens=False)]

    return encode


def _slow(tokenizer: PreTrainedTokenizerBase) -> Encode:
    def encode(texts: Sequence[str]) -> list[Ids]:
        if not texts:
            return []
        ids = tokenizer(list(texts), add_special_tokens=False, padding=False, truncation=False)["input_ids"]
        return [np.array(row, np.int32) for row in ids]

    return encode


def _without_dummy_space(whole: dict[str, Any]) -> dict[str, Any]:
    """The description of a tokenizer, with whatever puts a space before a text turned off."""
    steps = {name: whole.get(name) for name in ("normalizer", "pre_tokenizer")}
    return whole | {name: _quiet(step) for name, step in steps.items() if step is not None}


def _quiet(step: dict[str, Any]) -> dict[str, Any] | None:
    kind = step.get("type")
    if kind == "Prepend":
        return None
    if kind == "Metaspace":
        return step | {"prepend_scheme": "never"}
    if kind == "ByteLevel":
        return step | {"add_prefix_space": False}
    if kind == "Sequence":
        inner = "normalizers" if "normalizers" in step else "pretokenizers"
        return step | {inner: [quiet for item in step[inner] if (quiet := _quiet(item)) is not None]}
    return step


def _start(tokenizer: PreTrainedTokenizerBase, bare: Ids) -> tuple[int, ...]:
    """Special tokens that the tokenizer puts before a text."""
    full, wanted = tokenizer("a")["input_ids"], bare.tolist()
    for start in range(len(full) - len(wanted) + 1):
        if full[start : start + len(wanted)] == wanted:
            return tuple(full[:start])
    return ()


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"tokenizer {tokenizer.name_or_path or type(tokenizer).__name__}"
