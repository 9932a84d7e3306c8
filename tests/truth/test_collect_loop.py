"""The whole loop: people vote in a served project, votes are exported, DPO is trained, and its exact reward is known.

Scripted annotators read the two texts that the server sends them, and nothing else: they know the world's reward and
answer wrong with a probability of their own. Every arm has the same pairs, start and options, and other labels.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from preftree.collect.export import export_project
from preftree.collect.schema import connect
from preftree.collect.store import SqliteStore
from preftree.run_folder.reader import read_run
from preftree.worlds.grammar import World, reward
from preftree.worlds.sentiment import WORLDS
from support.collect import Client, run, secret_of, served
from support.datafiles import write_rows
from support.scripted import new_project
from support.world_labels import Row, drawn_pairs, fine_tuned, labelled, reward_of

FLIP = 0.25
HONEST = [FLIP] * 12
WITH_ADVERSARIES = [FLIP] * 10 + [0.9] * 2
"""Probability of a wrong answer of each annotator."""

OVERLAP = 3


def collected(place: Path, world: World, pairs: Sequence[Row], wrong: Sequence[float], seed: int) -> Path:
    """A project that scripted annotators have voted through, over HTTP, until nothing was left."""
    place.mkdir(parents=True)
    data = write_rows(place / "pairs.jsonl", pairs)
    new_project(place / "P.db", data, overlap=OVERLAP, repeats=0.0, golds=0.0)
    store = SqliteStore(place / "P.db")
    people = [store.join(f"person {number}").id for number in range(len(wrong))]
    store.close()

    async def work(client: Client, chance: float, generator: np.random.Generator) -> None:
        while True:
            status, told = await client.ask("/next")
            assert status == 200, told
            if not told["pairs"]:
                if told["votes"] >= told["needed"]:
                    return
                await asyncio.sleep(0.05)
            for one in told["pairs"]:
                prompt = one["prompt"][0]["text"]
                left, right = (reward(world, prompt, one[side]["text"]) for side in ("left", "right"))
                is_left = (left > right) != (generator.random() < chance)
                status, said = await client.vote(one, "left" if is_left else "right")
                assert status == 200, said

    async def everybody(port: int) -> None:
        secret = secret_of(place / "P.db")
        generators = np.random.default_rng(seed).spawn(len(wrong))
        clients = [Client.of(port, secret, number) for number in people]
        await asyncio.wait_for(
            asyncio.gather(*(work(*each) for each in zip(clients, wrong, generators, strict=True))), 600
        )

    with served(place / "P.db") as port:
        run(everybody(port))
    return place / "P.db"


def exported(project: Path, out: Path) -> list[Row]:
    connection = connect(project, write=False)
    told = export_project(connection, out, "own")
    connection.close()
    assert not told.left_out
    return [json.loads(line) for line in out.read_text().splitlines()]


def as_they_are(rows: Sequence[Row]) -> list[Row]:
    """Every vote as a label of its own: one row a pair, of weight n, trains as n rows of `dpo` (tests/laws)."""
    found = []
    for row in rows:
        share = float(np.mean([vote["choice"] == "chosen" for vote in row["votes"]]))
        found.append(labelled(row, share, len(row["votes"])))
    return found


def by_oracle(world: World, pairs: Sequence[Row], flip: float, labels: int, seed: int) -> list[Row]:
    """The same number of labels of one who knows the reward and errs as often."""
    generator, found = np.random.default_rng(seed), []
    for row in pairs:
        better = reward(world, row["prompt"], row["chosen"]) > reward(world, row["prompt"], row["rejected"])
        for_first = (generator.random(labels) >= flip) == better
        found.append(labelled(row, float(for_first.mean()), labels))
    return found


ARMS = ("people", "oracle", "aggregated", "raw")


def loop(
    home: Path,
    world: World,
    seed: int,
    *,
    pairs: int,
    texts: int,
    sft_steps: int,
    steps: int,
    arms: Sequence[str] = ARMS,
) -> dict[str, float]:
    """Exact reward by arm: people and an oracle that err alike; with adversaries, votes aggregated and as they are."""
    home.mkdir(parents=True)
    start = fine_tuned(home, world, seed, texts, sft_steps)
    asked = drawn_pairs(start, world, pairs, seed)
    rows = {"people": exported(collected(home / "honest", world, asked, HONEST, seed), home / "people.jsonl")}
    if "aggregated" in arms:
        hostile = collected(home / "hostile", world, asked, WITH_ADVERSARIES, seed)
        rows["aggregated"] = exported(hostile, home / "aggregated.jsonl")
        rows["raw"] = as_they_are(rows["aggregated"])
    if "oracle" in arms:
        rows["oracle"] = by_oracle(world, asked, FLIP, OVERLAP, seed)
    found: dict[str, float] = {}
    for name, of_arm in rows.items():
        path = home / f"{name}.jsonl"
        if not path.exists():
            write_rows(path, of_arm)
        right = np.mean(
            [reward(world, r["prompt"], r["chosen"]) > reward(world, r["prompt"], r["rejected"]) for r in of_arm]
        )
        figures = reward_of(home, world, start, path, f"run-{name}", seed, beta=1.0, steps=steps)
        print(
            f"seed {seed} {name:10} right {right:.3f} reward {figures['reward']:.4f} kl {figures['kl']:.3f}", flush=True
        )
        found[name] = figures["reward"]
    card = (home / "run-people" / "model" / "README.md").read_text()
    told = json.loads((home / "people.jsonl.votes").read_text())
    assert told["votes_sha256"] in card and f"| last vote | {told['last_vote']} |" in card
    assert read_run(home / "run-people").summary["votes_sha256"] == told["votes_sha256"]
    return found


def test_votes_of_a_served_project_train_a_model_whose_card_names_them(tmp_path: Path) -> None:
    loop(tmp_path / "0", WORLDS["tiny"], 0, pairs=40, texts=300, sft_steps=30, steps=10, arms=["people"])


@pytest.mark.slow
def test_votes_of_people_are_as_good_as_an_oracle_s_and_better_than_raw_ones(tmp_path: Path) -> None:
    """With 400 pairs the honest arms differed by -.03 to .005, by the luck of the draws; hence 800."""
    sizes = {"pairs": 800, "texts": 8000, "sft_steps": 300, "steps": 150}
    found = [loop(tmp_path / str(seed), WORLDS["small"], seed, **sizes) for seed in range(3)]
    lost = [one["oracle"] - one["people"] for one in found]
    print("oracle less people by seed:", ", ".join(f"{value:.4f}" for value in lost), f"mean {np.mean(lost):.4f}")
    assert max(lost) <= 0.02
    assert all(one["aggregated"] > one["raw"] for one in found)
