"""What a conversation says reaches the model, is scored where it should be, and writes no marks of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from transformers import PreTrainedTokenizerFast

from preftree.data.formats.prompts_alone import prompt_of
from preftree.data.prompts import Prompt, encode_prompts
from preftree.data.rows.faults import RowFault, Tally
from preftree.data.store.example import join
from preftree.data.tokens.budgets import UNLIMITED
from preftree.data.tokens.encoder import make_encoder
from preftree.data.tokens.row_examples import RenderedRow, Turns, make_examples, render_row
from preftree.data.tokens.sampled_responses import encode_answers
from preftree.data.tokens.template import closing_token
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import DataError
from preftree.records import Conversation, Demonstration, Message, Preference, Provenance, Record
from support.chat_templates import CALLS, CHATML, OPENS, THINKS, tokenizer_of
from support.datafiles import write_rows
from support.tokenizers import CHAT_TEMPLATE, END, EOS, chat_tokenizer, plain_tokenizer

HERE = Provenance("f", 1)
HH = """{% for m in messages %}{{ '\n\n' + {'user': 'Human', 'assistant': 'Assistant'}[m.role] + ': ' + m.content }}\
{% endfor %}{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"""
WEATHER = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object"}}}


def U(text: str) -> Message:
    return Message("user", text)


def A(text: str, **rest: Any) -> Message:
    return Message("assistant", text, rest=rest)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def rendered(record: Record, tokenizer: PreTrainedTokenizerFast, turns: Turns = "last") -> RenderedRow:
    kind = "pair" if isinstance(record, Preference) else "demonstration"
    return render_row(HERE, record, tokenizer, make_encoder(tokenizer), kind, turns)


def scored(record: Record, tokenizer: PreTrainedTokenizerFast, turns: Turns = "last") -> str:
    """The scored ids of a record's first response, decoded."""
    tally = Tally()
    row = rendered(record, tokenizer, turns)
    (example,) = make_examples([row], make_encoder(tokenizer), UNLIMITED, "drop", tally)
    assert not tally.rejected
    sequence = join(example.prompt, example.responses[0], example.scored[0])
    return tokenizer.decode(sequence.ids[sequence.scored].tolist())


def fault(record: Record, tokenizer: PreTrainedTokenizerFast) -> RowFault:
    with pytest.raises(RowFault) as caught:
        rendered(record, tokenizer)
    return caught.value


def test_reasoning_is_part_of_the_response() -> None:
    record = Demonstration((U("1+1?"),), (A("2.", reasoning_content="one and one"),))
    assert scored(record, THINKS) == f"<think>\none and one\n</think>\n\n2.{END}"
    assert scored(record, OPENS) == f"one and one\n</think>\n\n2.{END}"
    assert rendered(record, OPENS).texts.prompt.endswith("<think>\n")
    lost = fault(record, CHATML)
    assert lost.field == "reasoning_content" and "is not rendered by the chat template of" in lost.message
    other = Demonstration((U("1+1?"),), (A("2.", thinking="one and one"),))
    assert scored(other, THINKS) == scored(record, THINKS) and fault(other, CHATML).field == "thinking"


@pytest.mark.parametrize("thought", ["<think>\nso so\n</think>\n\n", "so so\n</think>\n\n", "<think>so so</think>"])
def test_a_thought_in_the_content_is_the_templates_to_read(thought: str) -> None:
    record = Demonstration((U("a"),), (A(f"{thought}Yes."),))
    assert scored(record, OPENS) == f"so so\n</think>\n\nYes.{END}"
    assert scored(record, THINKS) == f"<think>\nso so\n</think>\n\nYes.{END}"


def test_a_dropped_earlier_thought_leaves_a_later_response_right() -> None:
    prompt = (U("a"), A("one", reasoning_content="hm"), U("b"))
    record = Demonstration(prompt, (A("two", reasoning_content="well"),))
    assert "hm" not in rendered(record, OPENS).texts.prompt
    assert scored(record, OPENS) == f"well\n</think>\n\ntwo{END}"
    turns = (A("one", reasoning_content="hm"), U("b"), A("two"))
    assert fault(Demonstration((U("a"),), turns), THINKS).field == "reasoning_content"
    assert fault(Demonstration((U("a"),), turns), OPENS).fault == "template_alters_prompt"


def test_tools_and_options_reach_the_template() -> None:
    asked = Conversation((U("rain?"),), (WEATHER,))
    record = Demonstration(asked, (A("No."),))
    assert '"name": "weather"' in rendered(record, CALLS).texts.prompt
    assert CALLS.decode(encode_prompts(CALLS, [Prompt(HERE, asked)])[0]) == rendered(record, CALLS).texts.prompt
    lost = fault(Demonstration(Conversation((U("the weather?"),), (WEATHER,)), (A("No."),)), CHATML)
    assert lost.field == "tools" and lost.message.startswith("'tools' is not rendered by the chat template of")
    quiet = Conversation((U("a"),), (), {"enable_thinking": False})
    assert rendered(Demonstration(quiet, (A("b"),)), THINKS).texts.prompt.endswith("<think>\n\n</think>\n\n")
    bad = Conversation((U("a"),), (), {"tokenize": True})
    assert "sets 'tokenize'" in fault(Demonstration(bad, (A("b"),)), CHATML).message


def test_calls_are_rendered_scored_and_closed_by_the_turns_own_end() -> None:
    ask = A("", tool_calls=[call("weather", town='Köln "C"')])
    turns = (ask, Message("tool", "rain"), A("It rains."))
    record = Demonstration(Conversation((U("rain?"),), (WEATHER,)), turns)
    written = '<tool_call>\n{"name": "weather", "arguments": {"town": "Köln \\"C\\""}}\n</tool_call>'
    assert scored(record, CALLS) == f"{written}{END}It rains.{END}"
    lost = fault(Demonstration((U("rain?"),), turns), CHATML)
    assert lost.field == "tool_calls" and "'weather' of a call is missing" in lost.message
    earlier = Demonstration((U('weather in Köln "C"?'), *turns[:2]), (A("It rains."),))
    assert fault(earlier, CHATML).field == "tool_calls"
    assert scored(earlier, CALLS) == f"It rains.{END}"


def test_a_turn_that_the_template_leaves_out_is_a_fault() -> None:
    deaf = CHAT_TEMPLATE.replace(
        "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
    )
    record = Demonstration((Message("system", "Be good."), U("a")), (A("b"),))
    assert "(system) is missing" in fault(record, chat_tokenizer(template=deaf)).message
    deaf = CHAT_TEMPLATE.replace(
        "+ '<|im_end|>' }}{% endif", "if message['role'] != 'tool' else '' }}<|im_end|>{% endif"
    )
    turns = (A("one"), Message("tool", "rain"), A("two"))
    assert "(tool) is missing" in fault(Demonstration((U("a"),), turns), chat_tokenizer(template=deaf)).message


def test_marks_that_are_no_special_tokens_are_found() -> None:
    tokenizer = plain_tokenizer()
    tokenizer.add_tokens(["[END]", "[USER]"], special_tokens=False)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ ('[USER]' if m.role == 'user' else '') + m.content + '[END]' }}{% endfor %}"
    )
    assert closing_token(tokenizer) == tokenizer.convert_tokens_to_ids("[END]")
    assert scored(Demonstration((U("a"),), (A("b"),)), tokenizer) == "b[END]"
    for record in (
        Demonstration((U("a [END]b"),), (A("c"),)),
        Demonstration((U("a"),), (A("b[END][USER]c"),)),
        Preference((U("a"),), (A("b"),), (A("c[END]"),)),
    ):
        assert "which the chat template itself writes" in fault(record, tokenizer).message
    assert fault(Demonstration((U("a <think> b"),), (A("c"),)), THINKS).fault == "special_token"
    assert fault(Demonstration((U("a"),), (A("b <think>c</think> d<think>"),)), THINKS).fault == "special_token"
    assert fault(Demonstration((U("a"),), (A("b", reasoning_content="c</think>d"),)), THINKS).fault == "special_token"
    assert fault(Demonstration((U("a"),), (A("<tool_call>{}</tool_call>"),)), CALLS).fault == "special_token"
    hidden = A("", tool_calls=[call("weather", town=f"x{END}")])
    assert fault(Demonstration((U("a"),), (hidden,)), CALLS).fault == "special_token"
    tool = {"type": "function", "function": {"name": "weather", "description": "</tool_call>"}}
    assert fault(Demonstration(Conversation((U("a"),), (tool,)), (A("b"),)), CALLS).field == "tools"


def test_ordinary_added_tokens_are_no_marks() -> None:
    tokenizer = tokenizer_of(CHAT_TEMPLATE, "  ", "user", "<b>")
    record = Demonstration((U("the user  says <b>"),), (A("a  user <b>"),))
    assert scored(record, tokenizer) == f"a  user <b>{END}"


@pytest.mark.parametrize(("normalizer", "text"), [("NFKC", "\uff1cstop\uff1e"), ("Lowercase", "<STOP>")])
@pytest.mark.parametrize("special", [True, False])
def test_what_normalisation_makes_a_mark_is_found(normalizer: str, text: str, special: bool) -> None:
    tokenizer = plain_tokenizer()
    tokenizer.backend_tokenizer.normalizer = getattr(normalizers, normalizer)()
    tokenizer.add_tokens([AddedToken("<stop>", normalized=True, special=special)], special_tokens=special)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '<stop>' }}{% endfor %}"
    assert tokenizer.convert_tokens_to_ids("<stop>") in tokenizer(text)["input_ids"]
    assert "normalisation" in fault(Demonstration((U("a"),), (A(f"b {text} c"),)), tokenizer).message
    assert "normalisation" in fault(Demonstration((U(f"{text} c"),), (A("b"),)), tokenizer).message
    assert scored(Demonstration((U("a"),), (A("b"),)), tokenizer).endswith("b<stop>")
    if special:
        assert "normalisation" in fault(Demonstration("a", f"b {text} c"), tokenizer).message


def test_turn_headers_in_plain_text_are_found() -> None:
    tokenizer = chat_tokenizer(template=HH)
    assert "'\\n\\nAssistant:'" in fault(Demonstration((U("a\n\nAssistant: b"),), (A("c"),)), tokenizer).message
    assert fault(Demonstration((U("a"),), (A("b\n\nHuman: c"),)), tokenizer).fault == "special_token"
    closing = HH.replace("+ m.content", "+ m.content + ('<|endoftext|>' if m.role == 'assistant' else '')")
    assert fault(Demonstration((U("a"),), (A("b\n\nHuman: c"),)), chat_tokenizer(template=closing)).field == "response"
    options: dict[str, Any] = {"budgets": UNLIMITED, "truncation": "drop"}
    _, (answer,), _ = encode_answers(tokenizer, make_encoder(tokenizer), [(U("a"),)], ["b\n\nHuman: c"], **options)
    assert tokenizer.decode(answer) == " b\n\nHuman: c" + EOS  # what a model samples is judged as it is
    assert scored(Demonstration((U("a\n\nAn Assistant: b"),), (A("c\n\nd"),)), tokenizer).startswith(" c\n\nd")


def test_all_turns_are_scored_without_markers() -> None:
    plain = chat_tokenizer(template=CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    prompt = (U("a"), A("one"), U("b"), Message("assistant", "two", False), U("c"), A("three"), U("d"))
    record = Demonstration(prompt, (A("four"),))
    assert scored(record, plain, "all") == f"one{END}three{END}four{END}"
    assert scored(record, plain, "last") == f"four{END}"
    assert scored(record, CHATML, "all") == f"one{END}three{END}four{END}"
    whole = [{"role": turn.role, "content": turn.content} for turn in prompt]
    wanted = plain.apply_chat_template(whole, return_dict=False, add_generation_prompt=True)
    tally = Tally()
    (example,) = make_examples([rendered(record, plain, "all")], make_encoder(plain), UNLIMITED, "drop", tally)
    assert example.prompt.tolist() == wanted
    with pytest.raises(DataError, match=r"no \{% generation %\} markers; add them"):
        rendered(record, OPENS, "all")


def test_the_turns_are_in_the_key_of_the_store(tmp_path: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": turns}])
    options: dict[str, Any] = {"kind": "demonstration", "cache_dir": tmp_path / "cache"}
    last, _ = tokenize_file(path, CHATML, **options)
    every, report = tokenize_file(path, CHATML, turns="all", **options)
    assert not report.cached and every[0].sequences[0].scored.sum() == 2 * last[0].sequences[0].scored.sum()
    with pytest.raises(DataError, match="turns=all makes targets of a demonstration"):
        tokenize_file(path, CHATML, kind="pair", turns="all", cache_dir=tmp_path / "cache")


def test_a_prompt_row_gives_system_tools_and_options() -> None:
    row = {
        "prompt": "rain?",
        "system": "Be brief.",
        "tools": [WEATHER],
        "chat_template_kwargs": {"enable_thinking": True},
    }
    prompt = prompt_of(row)
    assert prompt == Conversation((Message("system", "Be brief."), U("rain?")), (WEATHER,), {"enable_thinking": True})
    without = prompt_of(row | {"chat_template_kwargs": None})
    assert "weather" in CALLS.decode(encode_prompts(CALLS, [Prompt(HERE, without)])[0])
    assert prompt_of({"prompt": "rain?", "id": 3}) == "rain?"


def test_an_option_that_the_template_does_not_know_is_refused() -> None:
    prompt = Conversation((U("rain?"),), options={"enable_thinkin": True})
    with pytest.raises(DataError, match=r"'enable_thinkin' is no variable of it"):
        encode_prompts(THINKS, [Prompt(HERE, prompt)])


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
    str.strip
)


@given(
    words, words, st.none() | words, st.sampled_from([CHATML, THINKS, OPENS, CALLS]), st.sampled_from(["last", "all"])
)
def test_scored_ids_decode_to_what_the_template_rendered(
    question: str, answer: str, thought: str | None, tokenizer: PreTrainedTokenizerFast, turns: Turns
) -> None:
    rest = {} if thought is None else {"reasoning_content": thought}
    prompt = (U(question), A(answer), U("and?")) if turns == "all" and tokenizer is not OPENS else (U(question),)
    record = Demonstration(prompt, (A(answer, **rest),))
    try:
        text = scored(record, tokenizer, turns)
    except RowFault:
        return
    whole = [{"role": turn.role, "content": turn.content, **turn.rest} for turn in (*prompt, *record.response)]  # type: ignore[union-attr] - turns
    head = tokenizer.apply_chat_template(whole[:-1], tokenize=False, add_generation_prompt=True)
    full = tokenizer.apply_chat_template(whole, tokenize=False)
    assert isinstance(head, str) and isinstance(full, str)
    response = full[len(head) :].removesuffix("\n")
    assert text == (f"{answer}{END}" if len(prompt) > 1 else "") + response
    assert answer.strip() in response and (thought or "").strip() in response
