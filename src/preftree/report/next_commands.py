"""Commands that go on from a finished run, with its own paths."""

from __future__ import annotations

import shlex

from preftree.run_folder.reader import Run


def next_commands(run: Run) -> list[tuple[str, str]]:
    """What can be done with a run next: a phrase, and the command; nothing for a run that is not finished."""
    if not run.model_files:
        return []
    path, start = _word(run.path), _word(run.config.get("model", "START"))
    if run.recipe.trains == "reward_model":
        return [
            ("Rank samples with it", f"preftree data rank SAMPLES.jsonl PAIRS.jsonl --reward rm:{path}"),
            (
                "Train a policy with it",
                f"preftree rloo model={start} data=PROMPTS.jsonl reward=rm:{path} out=runs/rloo",
            ),
        ]
    commands = [
        ("Talk to it", f"preftree chat {path}"),
        ("Compare it blindly with its start", f"preftree chat {path} --against {start} --blind"),
        ("Let it answer a file", f"preftree generate {path} PROMPTS.jsonl answers.jsonl"),
        (
            "Win rate against its start",
            f"preftree eval winrate {path} {start} --prompts PROMPTS.jsonl --judge rm:REWARD_MODEL",
        ),
    ]
    if run.config.get("lora"):
        commands.append(("One folder without the adapter", f"preftree export {path} merged --merged"))
    commands.append(("A file for llama.cpp and Ollama", f"preftree export {path} model.gguf --gguf q8_0"))
    if run.recipe.reads == "preferences" and run.config.get("eval_data") is None:
        words = "preftree dpo ... eval_data=0.1 out=ANOTHER"
        commands.insert(0, ("Hold out a tenth of the prompts, to see more than memory", words))
    return commands


def _word(value: object) -> str:
    return shlex.quote(str(value))
