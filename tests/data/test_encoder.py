"""Ids of a text do not depend on what stands before it, and special tokens come once."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from preftree.data.tokens.encoder import make_encoder
from preftree.errors import ModelError
from support.tokenizers import BOS, EOS, chat_tokenizer, plain_tokenizer

VOCAB = ["<unk>", "</s>", "<s>", "\u2581", "H", "i", "\u2581Hi", "Hi", "Q", ":", "\u2581Q"]


def sentencepiece_like(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer that puts a space before every text, as those of Llama 2 (`prepend`) and T5 (`always`) do."""
    merges = [("\u2581", "Q"), ("H", "i"), ("\u2581", "Hi")]
    model = models.BPE({token: i for i, token in enumerate(VOCAB)}, merges, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    if kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])  # type: ignore[assignment] - a setter the stub lacks
        tokenizer.decoder = decoders.Metaspace()  # type: ignore[assignment] - as above
    else:
        scheme = {"metaspace": "first", "always": "always"}[kind]
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)  # type: ignore[assignment] - as above
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


def tokens(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids.tolist())


@pytest.mark.parametrize("kind", ["prepend", "metaspace", "always"])
def test_a_response_has_no_space_that_nobody_wrote(kind: str) -> None:
    tokenizer = sentencepiece_like(kind)
    assert tokenizer("Hi", add_special_tokens=False)["input_ids"] == [VOCAB.index("\u2581Hi")]  # what must not happen
    encoder = make_encoder(tokenizer)
    prompt, bare, spaced = encoder.first(["Q:"])[0], *encoder.later(["Hi", " Hi"])
    assert tokens(tokenizer, prompt) == ["\u2581Q", ":"]  # at the start of a sequence the model knows it so
    assert tokens(tokenizer, bare) == ["Hi"]
    assert tokens(tokenizer, spaced) == ["\u2581Hi"]
    assert tokenizer("Hi", add_special_tokens=False)["input_ids"] == [VOCAB.index("\u2581Hi")]  # left as it was


def test_byte_level_prefix_spaces_are_off_as_well() -> None:
    tokenizer = plain_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment] - a setter the stub lacks
    encoder = make_encoder(tokenizer)
    assert encoder.first(["x"])[0].tolist() == encoder.later([" x"])[0].tolist() != encoder.later(["x"])[0].tolist()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40), st.text(max_size=10))
def test_byte_level_ids_decode_to_the_text(text: str, other: str) -> None:
    ids = ENCODER.later([text, other, text])
    assert TOKENIZER.decode(ids[0], skip_special_tokens=False, clean_up_tokenization_spaces=False) == text
    assert ids[0].tolist() == ids[2].tolist() == ENCODER.later([text])[0].tolist()
    assert ids[0].dtype == np.int32


TOKENIZER = plain_tokenizer()
ENCODER = make_encoder(TOKENIZER)


def test_the_start_is_what_the_tokenizer_adds() -> None:
    with_bos = plain_tokenizer(bos=True)
    encoder = make_encoder(with_bos)
    assert encoder.start == encoder.empty == (with_bos.bos_token_id,)
    assert ENCODER.start == () and ENCODER.empty == (TOKENIZER.eos_token_id,)
    has_bos_but_adds_none = plain_tokenizer()
    has_bos_but_adds_none.add_special_tokens({"bos_token": BOS})
    encoder = make_encoder(has_bos_but_adds_none)
    assert encoder.start == () and encoder.empty == (has_bos_but_adds_none.bos_token_id,)


def test_the_tokenizers_own_truncation_and_padding_do_not_reach_here() -> None:
    tokenizer = plain_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert [len(ids) for ids in make_encoder(tokenizer).later(["one two three four five", "a"])] == [
        len(ids) for ids in ENCODER.later(["one two three four five", "a"])
    ]


def test_written_out_special_tokens_are_found() -> None:
    encoder = make_encoder(chat_tokenizer())
    assert encoder.special.search("x <|im_end|> y") and encoder.special.search(EOS)
    assert encoder.special.search("x <|im_end| y") is None


def test_a_tokenizer_without_eos_is_refused() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=plain_tokenizer().backend_tokenizer)
    with pytest.raises(ModelError, match="has no EOS token"):
        make_encoder(bare)


def test_the_digest_changes_with_what_changes_ids() -> None:
    other_template = chat_tokenizer(template="{{ messages[0]['content'] }}")
    others = [plain_tokenizer(bos=True), plain_tokenizer(texts=["other words"]), chat_tokenizer(), other_template]
    digests = [make_encoder(tokenizer).digest for tokenizer in (plain_tokenizer(), *others)]
    assert len(set(digests)) == len(digests)
    assert make_encoder(plain_tokenizer()).digest == ENCODER.digest


def test_unknown_tokens_are_known_only_where_they_are_tokens_of_their_own() -> None:
    assert ENCODER.unknown is None
    assert make_encoder(sentencepiece_like("always")).unknown == VOCAB.index("<unk>")
