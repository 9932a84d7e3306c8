"""How the cost of a DPO step grows with the work: tokens, prompt length, responses to a prompt, model size.

    python benchmarks/work.py --out runs/work            # about 10 minutes on a quiet core; resumable

One thread, fp32, random Llamas, texts of fixed length. Where prompts can be shared, the same scorer takes the same step
with sharing off, in turn: that is the usual forward, both sides of every pair with their prompt. Both must come to the
same gradient. Times are CPU seconds of the process, so that waiting for a core does not count; medians of
the steps after the first. Writes OUT/results.json, docs/work.svg, and the figures into docs/numbers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from common import floor, make_model, make_pairs, ready
from preftree.report.numbers import Axis, Kind, Tick, fit_axis, show
from preftree.storage.atomic import write_atomic

BLUE, ORANGE, GREY = "#2b5f9e", "#d08a3c", "#999"
BEGIN, END = "<!-- written by benchmarks/work.py -->", "<!-- end -->"
WORDS = {"shared": "a prompt is computed once", "apart": "both sides of every pair computed alone"}


@dataclass(frozen=True, slots=True)
class Case:
    """One step to time.

    Attributes:
      panel: What grows: `tokens`, `prompt`, `responses` or `size`.
      size: Of the model, by its name in common.py.
      prompts, prompt, response, responses: How many prompts, their tokens, a response's, and responses to each.
    """

    panel: str
    size: str
    prompts: int
    prompt: int
    response: int
    responses: int

    @property
    def name(self) -> str:
        return f"{self.panel}/{self.size}/{self.prompts}x({self.prompt}+{self.responses}x{self.response})"

    @property
    def pairs(self) -> int:
        return self.prompts * self.responses * (self.responses - 1) // 2


CASES = (
    *(Case("tokens", "9m", prompts, 120, 48, 2) for prompts in (2, 4, 8, 12, 16, 24)),
    *(Case("prompt", "9m", 6, prompt, 48, 2) for prompt in (32, 128, 256, 384, 512)),
    *(Case("responses", "9m", 2, 256, 48, responses) for responses in (2, 3, 4, 6)),
    *(Case("size", size, 4, 120, 48, 2) for size in ("9m", "31m", "110m")),
)
TRIAL = tuple(case for case in CASES if case.prompt <= 256 and case.responses <= 4 and case.prompts <= 12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/work"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where work.svg and numbers.md are")
    parser.add_argument("--trial", action="store_true", help="only the small cases, and nothing is written to the docs")
    options = parser.parse_args()
    path = options.out / f"results-{options.repeats}.json"  # figures of as many repeats alone go together
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    cases = TRIAL if options.trial else CASES
    todo = [case for case in cases if case.name not in found]
    print(f"{len(todo)} of {len(cases)} cases to do", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for case in todo:
            found[case.name] = measure(case, Path(folder) / case.size, options.repeats)
            write_atomic(path, json.dumps(found, indent=1) + "\n")
            print(case.name, {kind: round(seconds(found[case.name], kind), 3) for kind in kinds(found[case.name])})
    panels = {panel: [found[case.name] for case in cases if case.panel == panel] for panel in PANELS}
    place = options.out if options.trial else options.docs
    write_atomic(place / "work.svg", plot(panels))
    lines = figures(panels)
    print("\n".join(lines))
    if not options.trial:
        page = (options.docs / "numbers.md").read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        write_atomic(
            options.docs / "numbers.md", "\n".join([before + BEGIN, "", *lines, "", END + rest.partition(END)[2]])
        )


def measure(case: Case, folder: Path, repeats: int) -> dict[str, Any]:
    """Time a step with prompts shared and, but for sizes, with prompts apart: once each in turn."""
    import torch

    from preftree.runtime.ranks import open_ranks

    torch.set_num_threads(1)
    if not folder.exists():
        make_model(folder / "model", case.size)
    lengths = {"prompt": case.prompt, "responses": (case.response,) * case.responses, "spread": 0.0}
    make_pairs(folder / "pairs.jsonl", lengths, case.pairs)
    with open_ranks() as ranks:
        # At lr 0 every step is the same step.
        bench = ready(argparse.Namespace(folder=folder, precision="fp32"), ranks, lr=0.0)
        rows = np.arange(case.pairs)
        times: dict[str, list[float]] = {"shared": []} | ({} if case.panel == "size" else {"apart": []})
        tokens, norms = {}, {}
        for number in range(repeats + 1):
            for kind, own in times.items():
                bench.scorer.shares_prefixes = kind == "shared"
                began = time.process_time()
                result = bench.step(rows)
                if number:  # the first one warms up
                    own.append(time.process_time() - began)
                tokens[kind], norms[kind] = result.num_tokens, result.grad_norm
        assert max(norms.values()) <= min(norms.values()) * (1 + 1e-4), f"not the same gradient: {norms}"
        scored = int(bench.store.num_scored.sum())
        least = floor(bench.scorer.model, tokens["shared"], scored, "fp32", clock=time.process_time)
        parameters = sum(parameter.numel() for parameter in bench.scorer.parameters())
    about = {"case": case.name, "prompt": case.prompt, "responses": case.responses, "parameters": parameters}
    return about | {"seconds": times, "tokens": tokens, "floor": least}


def kinds(one: dict[str, Any]) -> list[str]:
    return list(one["seconds"])


def seconds(one: dict[str, Any], kind: str) -> float:
    return statistics.median(one["seconds"][kind])


PANELS: dict[str, tuple[str, str, Kind]] = {
    "tokens": ("Tokens of a step", "tokens computed", "linear"),
    "prompt": ("Prompt length, 6 prompts with 2 responses", "tokens of a prompt", "linear"),
    "responses": ("Responses to a prompt, all their pairs", "responses", "linear"),
    "size": ("Model size, 4 prompts with 2 responses", "parameters, millions", "log"),
}


def across(panel: str, one: dict[str, Any], kind: str) -> float:
    """Where a step stands on its panel's axis."""
    if panel == "tokens":
        return one["tokens"][kind]
    return one["parameters"] / 1e6 if panel == "size" else one[panel]


def figures(panels: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What the plot says, in words and numbers."""
    tokens, prompt = panels["tokens"], panels["prompt"]
    both = [(one["tokens"][kind], seconds(one, kind)) for one in tokens for kind in kinds(one)]
    slope, start = np.polyfit(*zip(*both, strict=True), 1)
    off = max(abs(start + slope * x - y) / y for x, y in both)
    grow = {
        kind: np.polyfit([one["prompt"] for one in prompt], [seconds(one, kind) for one in prompt], 1)[0]
        for kind in WORDS
    }
    repeats = min(len(times) for found in panels.values() for one in found for times in one["seconds"].values())
    lines = [
        "![Seconds of a step by tokens, prompt length, responses and model size](work.svg)",
        "",
        f"Medians of {repeats} repeats.",
        "",
        "| what grows | |",
        "|---|---|",
        f"| tokens of a step, {both[0][0]:,} to {max(x for x, _ in both):,} | {1e3 * slope:.3f} ms a token; the line "
        f"through all of them is off by {100 * off:.0f} % at most |",
        f"| prompt length | a token more costs {1e3 * grow['shared']:.2f} ms shared and {1e3 * grow['apart']:.2f} ms "
        f"apart: {grow['apart'] / grow['shared']:.2f} times |",
    ]
    for one in panels["responses"]:
        ratio = seconds(one, "apart") / seconds(one, "shared")
        counts = one["tokens"]["apart"] / one["tokens"]["shared"]
        lines.append(
            f"| {one['responses']} responses to a prompt | {seconds(one, 'shared'):.2f} s; apart {ratio:.2f} times as "
            f"long, with {counts:.2f} times the tokens |"
        )
    for one in panels["size"]:
        share = one["floor"] / seconds(one, "shared")
        lines.append(
            f"| {one['parameters'] / 1e6:.0f} M parameters | {seconds(one, 'shared'):.2f} s, of which matrix products "
            f"alone {100 * share:.0f} % |"
        )
    return lines


def plot(panels: dict[str, list[dict[str, Any]]]) -> str:
    """Four panels of seconds a step."""
    parts = []
    for number, (panel, found) in enumerate(panels.items()):
        x, y = 52 + 330 * (number % 2), 62 + 268 * (number // 2)
        parts.append(f'<g transform="translate({x} {y})">{draw(panel, found)}</g>')
    marks = [(BLUE, WORDS["shared"]), (ORANGE, WORDS["apart"]), (GREY, "its matrix products alone")]
    for (tone, words), x in zip(marks, (52, 230, 468), strict=True):
        dash = ' stroke-dasharray="4 3"' if tone == GREY else ""
        parts.append(f'<path d="M{x} 16h18" stroke="{tone}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{x + 24}" y="20" font-size="11.5">{words}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 560" font-family="sans-serif" font-size="10.5" '
        f'fill="#777">{"".join(parts)}</svg>\n'
    )


def draw(panel: str, found: Sequence[dict[str, Any]], width: float = 270, height: float = 190) -> str:
    """One panel: medians as dots on a line, the range of the repeats as a stroke."""
    title, x_name, x_kind = PANELS[panel]
    series = {kind: [(across(panel, one, kind), one["seconds"][kind]) for one in found] for kind in kinds(found[0])}
    if panel == "size":
        series["floor"] = [(across(panel, one, "shared"), [one["floor"]]) for one in found]
    points = [(x, y) for own in series.values() for x, times in own for y in times]
    zero = [] if x_kind == "log" else [0.0]
    x_axis = fit_axis([x for x, _ in points], x_kind, include=zero if panel != "responses" else [])
    y_axis = fit_axis([y for _, y in points], "log" if panel == "size" else "linear", include=zero)

    def at(x: float, y: float) -> tuple[float, float]:
        return width * x_axis.place(x), height * (1 - y_axis.place(y))

    parts = [f'<text x="0" y="-12" font-size="12" fill="#555" font-weight="600">{title}</text>']
    for tick in y_axis.ticks(5):
        parts.append(f'<path d="M0 {height * (1 - tick.at):.1f}h{width}" stroke="#ddd" stroke-width=".6"/>')
        parts.append(f'<text x="-6" y="{height * (1 - tick.at) + 3.5:.1f}" text-anchor="end">{tick.text}</text>')
    for tick in x_ticks(panel, x_axis, found):
        parts.append(f'<path d="M{width * tick.at:.1f} {height}v4" stroke="#bbb"/>')
        parts.append(f'<text x="{width * tick.at:.1f}" y="{height + 16}" text-anchor="middle">{tick.text}</text>')
    parts.append(f'<path d="M0 {height}h{width}" stroke="#bbb" fill="none"/>')
    parts.append(f'<text x="{width / 2}" y="{height + 32}" text-anchor="middle">{x_name}</text>')
    parts.append(
        f'<text x="-36" y="{height / 2}" text-anchor="middle" transform="rotate(-90 -36 {height / 2})">'
        "seconds a step</text>"
    )
    for kind, own in series.items():
        tone = {"shared": BLUE, "apart": ORANGE, "floor": GREY}[kind]
        middle = sorted((x, statistics.median(times), times) for x, times in own)
        path = "M" + "L".join("{:.1f} {:.1f}".format(*at(x, y)) for x, y, _ in middle)
        dash = ' stroke-dasharray="4 3"' if kind == "floor" else ""
        parts.append(f'<path d="{path}" stroke="{tone}" stroke-width="1.6" fill="none"{dash}/>')
        for x, y, times in middle:
            place, low, high = at(x, y), at(x, min(times)), at(x, max(times))
            parts.append(f'<path d="M{low[0]:.1f} {low[1]:.1f}V{high[1]:.1f}" stroke="{tone}" stroke-opacity=".5"/>')
            about = f"{show(float(x))}: {show(float(y))} s"
            parts.append(
                f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="3" fill="{tone}"><title>{about}</title></circle>'
            )
    return "".join(parts)


def x_ticks(panel: str, axis: Axis, found: Sequence[dict[str, Any]]) -> list[Tick]:
    """Round values; or where there are few sizes, these."""
    if panel == "responses":
        return [Tick(axis.place(one["responses"]), str(one["responses"])) for one in found]
    if panel == "size":
        return [Tick(axis.place(one["parameters"] / 1e6), f"{one['parameters'] / 1e6:.0f}") for one in found]
    return axis.ticks(5)


if __name__ == "__main__":
    main()
