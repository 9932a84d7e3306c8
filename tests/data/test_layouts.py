"""Rows as other tools and public data sets lay them out, with invented content: what each is read as, or why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from preftree.data.sources.reader import find_format, find_source
from preftree.errors import DataError
from preftree.records import Conversation, Demonstration, Label, Message, Preference, Ranking, Record
from support.datafiles import one_fault, read_all, said, write_rows

U, A, S = (
    (lambda text: Message("user", text)),
    (lambda text: Message("assistant", text)),
    Message("system", "Be brief."),
)
ASK, GOOD, BAD = "Is ice cold?", "Yes.", "It is hot."
ICE, COLD, HOT = (U(ASK),), (A(GOOD),), (A(BAD),)
TEXTS, CHATS, BRIEF = Preference(ASK, GOOD, BAD), Preference(ICE, COLD, HOT), Preference((S, *ICE), COLD, HOT)
TOOL = {"type": "function", "function": {"name": "melt", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "melt", "arguments": {"grams": 2}}}
TOOLED = Conversation(ICE, tools=[TOOL])

user, good, bad = said("user", ASK), said("assistant", GOOD), said("assistant", BAD)
human, gpt = {"from": "human", "value": ASK}, {"from": "gpt", "value": GOOD}


class Layout(NamedTuple):
    """A row of some tool, the format that it is taken for, and the record that it is."""

    what: str
    row: dict[str, Any]
    format: str
    record: Record


def parts(content: str) -> list[dict[str, str]]:
    return [{"type": "text", "value": content}]


LAYOUTS = [
    Layout("TRL: explicit text", {"prompt": ASK, "chosen": GOOD, "rejected": BAD}, "explicit", TEXTS),
    Layout("TRL: explicit", {"prompt": [user], "chosen": [good], "rejected": [bad]}, "conversational", CHATS),
    Layout("TRL: implicit", {"chosen": [user, good], "rejected": [user, bad]}, "conversational", CHATS),
    Layout(
        "TRL: unpaired text", {"prompt": ASK, "completion": BAD, "label": False}, "unpaired", Label(ASK, BAD, False)
    ),
    Layout(
        "TRL: unpaired", {"prompt": [user], "completion": [bad], "label": False}, "unpaired", Label(ICE, HOT, False)
    ),
    Layout(
        "TRL: prompt and completion",
        {"prompt": [user], "completion": [good]},
        "prompt_completion",
        Demonstration(ICE, COLD),
    ),
    Layout(
        "TRL: tools",
        {"prompt": [user], "chosen": [good], "rejected": [bad], "tools": [TOOL]},
        "conversational",
        Preference(TOOLED, COLD, HOT),
    ),
    Layout(
        "TRL: variables of the template",
        {"prompt": [user], "chosen": [good], "rejected": [bad], "chat_template_kwargs": {"enable_thinking": True}},
        "conversational",
        Preference(Conversation(ICE, options={"enable_thinking": True}), COLD, HOT),
    ),
    Layout(
        "TRL: thinking",
        {"messages": [user, said("assistant", GOOD, thinking="Hm.")]},
        "messages",
        Demonstration(ICE, (Message("assistant", GOOD, rest={"thinking": "Hm."}),)),
    ),
    Layout(
        "TRL: a tool call and its result",
        {
            "messages": [
                user,
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "name": "melt", "content": "1"},
                good,
            ],
            "tools": json.dumps([TOOL]),
        },
        "messages",
        Demonstration(
            Conversation(
                (
                    *ICE,
                    Message("assistant", "", rest={"tool_calls": [CALL]}),
                    Message("tool", "1", rest={"name": "melt"}),
                ),
                tools=[TOOL],
            ),
            COLD,
        ),
    ),
    Layout(
        "LLaMA-Factory: ShareGPT with calls",
        {
            "conversations": [
                human,
                {"from": "function_call", "value": '{"name": "melt", "arguments": {"grams": 2}}'},
                {"from": "observation", "value": "1"},
                gpt,
            ],
            "system": "",
            "tools": json.dumps([TOOL]),
        },
        "messages",
        Demonstration(
            Conversation(
                (*ICE, Message("assistant", "", rest={"tool_calls": [CALL]}), Message("tool", "1")), tools=[TOOL]
            ),
            COLD,
        ),
    ),
    Layout(
        "LLaMA-Factory: ShareGPT preferences",
        {"conversations": [human], "chosen": gpt, "rejected": {"from": "gpt", "value": BAD}},
        "messages_pair",
        CHATS,
    ),
    Layout("LLaMA-Factory: KTO", {"messages": [user, bad], "label": False}, "messages_label", Label(ICE, HOT, False)),
    Layout(
        "LLaMA-Factory: KTO tag",
        {"conversations": [human, gpt], "kto_tag": True},
        "messages_label",
        Label(ICE, COLD, True),
    ),
    Layout(
        "LLaMA-Factory: Alpaca with a text that repeats it",
        {"instruction": ASK, "input": "", "output": GOOD, "text": f"### Instruction: {ASK} ### Response: {GOOD}"},
        "instruction",
        Demonstration(ICE, COLD),
    ),
    Layout(
        "LLaMA-Factory: Alpaca preferences",
        {"instruction": ASK, "input": "", "chosen": GOOD, "rejected": BAD},
        "instruction_pair",
        CHATS,
    ),
    Layout(
        "LLaMA-Factory: Alpaca KTO",
        {"instruction": ASK, "input": "", "output": BAD, "kto_tag": False},
        "instruction_label",
        Label(ICE, HOT, False),
    ),
    Layout(
        "LLaMA-Factory: version 1 preferences",
        {
            "chosen_messages": [
                said("user", parts(ASK), loss_weight=0.0),
                said("assistant", parts(GOOD), loss_weight=1.0),
            ],
            "rejected_messages": [
                said("user", parts(ASK), loss_weight=0.0),
                said("assistant", parts(BAD), loss_weight=1.0),
            ],
        },
        "conversational",
        CHATS,
    ),
    Layout(
        "LLaMA-Factory: version 1 with thoughts and calls",
        {
            "messages": [
                said("user", parts(ASK)),
                said(
                    "assistant",
                    [
                        {"type": "reasoning", "value": "Hm."},
                        {"type": "tool_call", "value": '{"name": "melt", "arguments": {"grams": 2}}'},
                    ],
                ),
                said("tool", parts("1")),
                said("assistant", [{"type": "reasoning", "value": "Oh."}, *parts(GOOD)]),
            ],
            "tools": json.dumps([TOOL]),
        },
        "messages",
        Demonstration(
            Conversation(
                (
                    *ICE,
                    Message("assistant", "", rest={"reasoning_content": "Hm.", "tool_calls": [CALL]}),
                    Message("tool", "1"),
                ),
                tools=[TOOL],
            ),
            (Message("assistant", GOOD, rest={"reasoning_content": "Oh."}),),
        ),
    ),
    Layout(
        "ms-swift: query, response, history",
        {"system": "Be brief.", "query": ASK, "response": GOOD, "history": [["Hello.", "Hi."]]},
        "instruction",
        Demonstration((S, U("Hello."), A("Hi."), *ICE), COLD),
    ),
    Layout("ms-swift: rejected response", {"messages": [user, good], "rejected_response": BAD}, "messages_pair", CHATS),
    Layout(
        "ms-swift: rejected messages",
        {"messages": [user, good], "rejected_messages": [user, bad]},
        "messages_pair",
        CHATS,
    ),
    Layout(
        "ms-swift: query with a rejected response",
        {"query": ASK, "response": GOOD, "rejected_response": BAD},
        "instruction_pair",
        CHATS,
    ),
    Layout(
        "ms-swift: ShareGPT of questions and answers",
        {
            "system": "Be brief.",
            "conversation": [{"human": "Hello.", "assistant": "Hi."}, {"human": ASK, "assistant": GOOD}],
        },
        "messages",
        Demonstration((S, U("Hello."), A("Hi."), *ICE), COLD),
    ),
    Layout(
        "axolotl: prompt_pairs",
        {"system": "Be brief.", "prompt": ASK, "chosen": GOOD, "rejected": BAD},
        "explicit",
        BRIEF,
    ),
    Layout(
        "axolotl: ultra",
        {"system": "Be brief.", "prompt": ASK, "chosen": [user, good], "rejected": [user, bad]},
        "conversational",
        BRIEF,
    ),
    Layout(
        "axolotl: intel",
        {"system": "Be brief.", "question": ASK, "chosen": GOOD, "rejected": BAD},
        "question_pair",
        BRIEF,
    ),
    Layout(
        "axolotl: icr",
        {
            "system": "Be brief.",
            "input": ASK,
            "chosen": GOOD,
            "rejected": BAD,
            "generations": [BAD, GOOD],
            "status": "swapped",
        },
        "question_pair",
        BRIEF,
    ),
    Layout(
        "axolotl: icr, a tie",
        {"input": ASK, "chosen": GOOD, "rejected": BAD, "status": "tie"},
        "question_pair",
        Preference(ICE, COLD, HOT, tie=True),
    ),
    Layout(
        "axolotl: argilla",
        {"system": "Be brief.", "instruction": ASK, "chosen_response": GOOD, "rejected_response": BAD},
        "instruction_pair",
        BRIEF,
    ),
    Layout("axolotl: chat_template", {"messages": [user], "chosen": good, "rejected": bad}, "messages_pair", CHATS),
    Layout(
        "axolotl: KTO ultra",
        {"system": "Be brief.", "prompt": ASK, "completion": BAD, "label": False},
        "unpaired",
        Label((S, *ICE), HOT, False),
    ),
    Layout(
        "axolotl: KTO argilla",
        {"instruction": ASK, "completion": BAD, "label": False},
        "instruction_label",
        Label(ICE, HOT, False),
    ),
    Layout(
        "axolotl: KTO intel",
        {"question": ASK, "completion": BAD, "label": False},
        "instruction_label",
        Label(ICE, HOT, False),
    ),
    Layout(
        "axolotl: KTO argilla_chat", {"completion": [user, bad], "label": False}, "unpaired", Label(ICE, HOT, False)
    ),
    Layout(
        "axolotl: Nectar",
        {
            "prompt": f"\n\nHuman: {ASK}\n\nAssistant: ",
            "answers": [{"answer": BAD, "rank": 2}, {"answer": GOOD, "rank": 1}],
        },
        "ultrafeedback",
        Ranking(f"\n\nHuman: {ASK}\n\nAssistant: ", (GOOD, BAD)),
    ),
    Layout("messages beside texts", {"prompt": [user], "chosen": GOOD, "rejected": BAD}, "conversational", CHATS),
    Layout("messages beside objects", {"prompt": [user], "chosen": good, "rejected": bad}, "conversational", CHATS),
    Layout(
        "OpenAI, Azure, Together, Fireworks",
        {"input": {"messages": [user], "tools": [TOOL]}, "preferred_output": [good], "non_preferred_output": [bad]},
        "preferred_output",
        Preference(TOOLED, COLD, HOT),
    ),
    Layout(
        "OpenAI: weight 0",
        {"messages": [user, said("assistant", BAD, weight=0), user, said("assistant", GOOD, weight=1)]},
        "messages",
        Demonstration((*ICE, Message("assistant", BAD, False), *ICE), COLD),
    ),
    Layout(
        "Vertex",
        {
            "systemInstruction": None,
            "contents": [{"role": "user", "parts": [{"text": ASK}]}],
            "completions": [
                {"score": 0.0, "completion": {"role": "model", "parts": [{"text": BAD}]}},
                {"score": 1.0, "completion": {"role": "model", "parts": [{"text": GOOD}]}},
            ],
        },
        "ultrafeedback",
        Ranking(ICE, (COLD, HOT), figures={"scores": (1.0, 0.0)}),
    ),
    Layout("OpenPipe", {"messages": [user, good], "rejected_message": bad}, "messages_pair", CHATS),
    Layout(
        "NeMo-RL: preferences",
        {"context": [user], "completions": [{"rank": 1, "completion": [bad]}, {"rank": 0, "completion": [good]}]},
        "ultrafeedback",
        Ranking(ICE, (COLD, HOT)),
    ),
    Layout(
        "HelpSteer3, a tie",
        {"context": [user], "response1": GOOD, "response2": BAD, "overall_preference": 0},
        "helpsteer3",
        Preference(ICE, COLD, HOT, tie=True),
    ),
    Layout(
        "HelpSteer2: attributes",
        {"prompt": ASK, "response": GOOD, "helpfulness": 4, "verbosity": 1},
        "prompt_completion",
        Demonstration(ASK, GOOD),
    ),
    Layout(
        "UltraFeedback binarized",
        {
            "prompt": ASK,
            "prompt_id": "p",
            "chosen": [user, good],
            "rejected": [user, bad],
            "messages": [user, good],
            "score_chosen": 8.0,
            "score_rejected": 6.5,
        },
        "conversational",
        Preference(ICE, COLD, HOT, figures={"margin": (1.5,), "scores": (8.0, 6.5)}),
    ),
    Layout(
        "Argilla: ratings beside conversations",
        {"chosen": [user, good], "rejected": [user, bad], "chosen-rating": 5.0, "rejected-rating": 4.0},
        "conversational",
        Preference(ICE, COLD, HOT, figures={"margin": (1.0,), "scores": (5.0, 4.0)}),
    ),
    Layout(
        "distilabel: generations and ratings",
        {"instruction": ASK, "generations": [BAD, GOOD], "ratings": [1, 4]},
        "ranking",
        Ranking(ICE, (COLD, HOT), figures={"scores": (4.0, 1.0)}),
    ),
    Layout(
        "UltraChat: the first question repeated",
        {"prompt": ASK, "prompt_id": "p", "messages": [user, good]},
        "messages",
        Demonstration(ICE, COLD),
    ),
    Layout(
        "RewardBench 2",
        {"id": "1", "prompt": ASK, "chosen": [GOOD], "rejected": [BAD, "No."], "total_completions": 3},
        "chosen_lists",
        Ranking(ASK, (GOOD, BAD, "No."), figures={"scores": (1.0, 0.0, 0.0)}),
    ),
    Layout(
        "Kaggle arena, a tie",
        {
            "prompt": json.dumps([ASK]),
            "response_a": json.dumps([GOOD]),
            "response_b": json.dumps([BAD]),
            "winner_model_a": 0,
            "winner_model_b": 0,
            "winner_tie": 1,
        },
        "arena_columns",
        Preference(ICE, COLD, HOT, tie=True),
    ),
    Layout(
        "chatbot arena, both bad",
        {"winner": "tie (bothbad)", "conversation_a": [user, good], "conversation_b": [user, bad]},
        "arena",
        Preference(ICE, COLD, HOT, tie=True),
    ),
    Layout(
        "Argilla: version 1, suggested and answered",
        {
            "prompt": ASK,
            "response-1": GOOD,
            "response-2": BAD,
            "preference": [
                {"user_id": "u1", "value": "response-2", "status": "discarded"},
                {"user_id": "u2", "value": "response-1", "status": "submitted"},
            ],
            "preference-suggestion": "response-2",
            "external_id": "7",
        },
        "argilla",
        TEXTS,
    ),
    Layout(
        "Argilla: version 2 flat, a tie",
        {
            "prompt": ASK,
            "response_a": GOOD,
            "response_b": BAD,
            "preference.responses": ["tie"],
            "preference.suggestion": "a",
        },
        "argilla",
        Preference(ASK, GOOD, BAD, tie=True),
    ),
    Layout(
        "Argilla: a ranking as columns of a table",
        {
            "fields": {"instruction": ASK, "answer1": BAD, "answer2": GOOD},
            "suggestions": {"order": {"value": {"rank": [2, 1], "value": ["answer1", "answer2"]}}},
        },
        "argilla",
        TEXTS,
    ),
    Layout(
        "Dolly",
        {"instruction": ASK, "context": "", "response": GOOD, "category": "qa"},
        "instruction",
        Demonstration(ICE, COLD),
    ),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.what)
def test_what_other_tools_write_is_read(layout: Layout, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [layout.row])
    assert find_format(find_source(path)).name == layout.format
    records, tally = read_all(path)
    assert not tally.rejected, tally.rejected
    assert records == [layout.record]


REFUSED = [
    ("a common beginning", {"chosen": f"{ASK} {GOOD}", "rejected": f"{ASK} {BAD}"}, "come without their prompt"),
    (
        "messages as text",
        {"messages": json.dumps([user, good])},
        "field 'messages' is a message list written out as text",
    ),
    ("steps", {"prompt": ASK, "completions": ["One.", "Two."], "labels": [True, False]}, "labels of single steps"),
    ("answers alone", {"response": GOOD}, "'response' are of no known format"),
    ("text with a class", {"text": ASK, "label": 1}, "'text', 'label' are of no known format"),
]


@pytest.mark.parametrize(("row", "sentence"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_read_is_refused_by_field(row: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        find_format(find_source(write_rows(tmp_path / "rows.jsonl", [row])))


FAULTY = [
    ("images", {"messages": [said("user", f"<image>{ASK}"), good], "images": ["ice.png"]}, "not_text", "images"),
    (
        "image parts",
        {"messages": [said("user", [{"type": "image"}, {"type": "text", "text": ASK}]), good]},
        "not_text",
        "messages[0].content[0]",
    ),
    ("RLHF-V", {"prompt": ASK, "chosen": GOOD, "rejected": BAD, "image": {"path": "ice.png"}}, "not_text", "image"),
    ("a thought beside the row", {"messages": [user, good], "thinking": "Hm."}, "unread_field", "thinking"),
    ("a question alone, with a class", {"messages": [user], "label": 1}, "bad_messages", "messages"),
    (
        "people who disagree",
        {
            "fields": {"prompt": ASK, "response_1": GOOD, "response_2": BAD},
            "responses": {"preference": [{"value": "response_1"}, {"value": "response_2"}]},
        },
        "bad_value",
        "responses.preference",
    ),
]


@pytest.mark.parametrize(("row", "fault", "field"), [case[1:] for case in FAULTY], ids=[case[0] for case in FAULTY])
def test_what_would_be_misread_is_a_fault(row: dict[str, Any], fault: str, field: str, tmp_path: Path) -> None:
    rejected = one_fault(write_rows(tmp_path / "rows.jsonl", [row]))
    assert (rejected.fault, rejected.field) == (fault, field)
