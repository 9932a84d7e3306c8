"""Every command of README and docs is one that the program takes, and the tutorials and how-tos run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.follow_page import PLACES, follow, make_place
from support.pages import (
    PAGES,
    blocks_of,
    check_command,
    check_mention,
    commands_of,
    inline_commands,
    words_of_preftree,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_one(page: Path) -> None:
    faults = []
    for block in blocks_of(page.read_text("utf-8")):
        for words in commands_of(block):
            command = words_of_preftree(words)
            try:
                if command is not None:
                    check_command(command)
            except Exception as error:
                faults.append(f"{page.name}:{block.line}: {' '.join(words)}: {error}")
    for text in inline_commands(page.read_text("utf-8")):
        try:
            check_mention(text)
        except ValueError as error:
            faults.append(f"{page.name}: {text}: {error}")
    assert faults == []


def test_a_block_ends_where_its_fence_does() -> None:
    page = (
        'a\n\n```python title="a.py"\nx = 1\n```\n\n'
        "<!-- needs: GPU -->\n```bash\npreftree dpo \\\n  a=b  # c\n```\n\n"
        "    make x\n    preftree ppo\n"
    )
    first, second, third = blocks_of(page)
    assert (first.line, first.language, first.title, first.text) == (4, "python", "a.py", "x = 1")
    assert second.needs == "GPU" and list(commands_of(second)) == [["preftree", "dpo", "a=b"]]
    assert third.language == "bash" and list(commands_of(third)) == [["make", "x"], ["preftree", "ppo"]]


WRONG = {
    "preftree trian model=a data=b out=c": "no verb 'trian'",
    "preftree dpo model=a data=b out=c learning_rate=1": "learning_rate",
    "preftree dpo model=a data=b out=c loss=simpo loss.tau=1": "does not take 'tau'",
    "preftree dpo model=a data=b out=c --lrate 1": "lrate",
    "preftree sweep dpo beta=.1 model=a data=b out=c": "several values",
    "preftree generate m p o --samples many": "valid integer",
    "preftree generate m p o --sample 4": "--sample",
    "preftree eval winrate a b --judge x": "prompts",
}


@pytest.mark.parametrize(("line", "reason"), WRONG.items())
def test_a_wrong_command_is_refused(line: str, reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        check_command(line.split()[1:])


@pytest.mark.parametrize(
    "text", ["preftree trian", "preftree dpo --lrate", "preftree sweep --rewards x", "preftree dpo lrate=1"]
)
def test_a_wrong_mention_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has no"):
        check_mention(f"preftree {text}")


QUICK = ("dpo", "extend", "like_you", "tutorial")
"""Pages that the default suite follows; the others take as long again."""

FOLLOWED = [page if page in QUICK else pytest.param(page, marks=pytest.mark.slow) for page in PLACES]


@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_can_be_followed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFTREE_CACHE", str(tmp_path / "cache"))
    make_place(tmp_path, page)
    assert len(follow(page)) >= (page != "dpo")
