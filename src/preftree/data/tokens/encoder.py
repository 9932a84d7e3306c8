"""Encoder of texts, with which a response has the same token ids after every prompt.

A SentencePiece tokenizer puts a space before every text. At the beginning of a sequence the model was trained with it,
and it is kept. Before a response it would be a space that is not in the data, so a copy of the tokenizer without it
encodes responses. The tokenizer never adds special tokens here: they are added once, by id.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from preftree.errors import ModelError

Ids: TypeAlias = np.ndarray  # int32, one dimension
Encode: TypeAlias = Callable[[Sequence[str]], list[Ids]]


@dataclass(frozen=True, slots=True)
class Encoder:
    """The functions and special tokens of one tokenizer.

    Attributes:
      first: Encoding of texts at the beginning of a sequence.
      later: Encoding of texts that follow another, without a dummy space.
      start: Special tokens of the tokenizer before plain text; a BOS, or none.
      empty: Replacement of an empty prompt, since nothing predicts the first token: the BOS, or the EOS without a BOS.
      eos: End of sequence.
      unknown: Token for text that the vocabulary lacks; None where there is none, or where it is BOS or EOS.
      special: Pattern of special tokens that are written out in a text.
      added: Pattern of all tokens that are always encoded as a whole, special or not; one of them closes a turn.
      digest: Digest of the other attributes.
    """

    first: Encode
    later: Encode
    start: tuple[int, ...]
    empty: tuple[int, ...]
    eos: int
    unknown: int | None
    special: re.Pattern[str]
    added: re.Pattern[str]
    digest: str


def make_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """Build the encoder of a tokenizer.

    Raises:
      ModelError: it has no EOS, or it is a Python tokenizer that puts a space before every text.
    """
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError(f"{_name(tokenizer)} has no EOS token, which ends every response; set eos_token in its folder")
    special = {str(token) for token in tokenizer.all_special_tokens}
    special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    added = special | {token.content for token in tokenizer.added_tokens_decoder.values()}
    if isinstance(tokenizer, TokenizersBackend):
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        first = _fast(tokenizer.backend_tokenizer.to_str())
        bare = _without_dummy_space(description)
        later = _fast(json.dumps(bare)) if bare != description else first
        identity = json.dumps(description, sort_keys=True)
    else:
        first = later = _slow(tokenizer)
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
        special=_any_of(special),
        added=_any_of(added),
        digest=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
    )


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if token))


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


def _without_dummy_space(description: dict[str, Any]) -> dict[str, Any]:
    """The description of a tokenizer without the steps that put a space before a text."""
    steps = {name: description.get(name) for name in ("normalizer", "pre_tokenizer")}
    return description | {name: _quiet(step) for name, step in steps.items() if step is not None}


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
