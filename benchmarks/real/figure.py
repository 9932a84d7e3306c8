"""The frontier as a picture: reward over KL with both intervals, a line a run."""

from __future__ import annotations

import math
from typing import Any

WIDTH, HEIGHT, LEFT, TOP = 760, 430, 56, 34
COLOURS = ("#9cc3e6", "#5b9bd5", "#2b5f9e", "#14304f", "#d08a3c", "#777777", "#7a4fa3", "#3c9d6b", "#c0392b")


def plot(seeds: dict[str, Any]) -> str:
    """An SVG of the figures of several seeds; the horizontal scale is a square root."""
    points = [point for seed in seeds.values() for method in seed["methods"].values() for point in method["points"]]
    most = max(point["kl"] for point in points) * 1.05 or 1.0
    low = min(point.get("reward_low", point["reward"]) for point in points)
    high = max(point.get("reward_high", point["reward"]) for point in points)

    def x(kl: float) -> float:
        return LEFT + math.sqrt(max(kl, 0.0) / most) * (WIDTH - LEFT - 200)

    def y(reward: float) -> float:
        return TOP + (high - reward) / ((high - low) or 1.0) * (HEIGHT - TOP - 48)

    parts = [f'<text x="{LEFT}" y="18">mean reward, by KL from the start in nats; bars are 95 % intervals</text>']
    for kl in ticks(most):
        parts.append(f'<text x="{x(kl):.1f}" y="{HEIGHT - 26}" text-anchor="middle">{kl:g}</text>')
        parts.append(f'<path d="M{x(kl):.1f} {TOP}V{HEIGHT - 44}" stroke="#ddd"/>')
    for step in range(math.ceil(low * 5), math.floor(high * 5) + 1):
        parts.append(f'<text x="{LEFT - 6}" y="{y(step / 5) + 4:.1f}" text-anchor="end">{step / 5:.1f}</text>')
        parts.append(f'<path d="M{LEFT} {y(step / 5):.1f}H{WIDTH - 200}" stroke="#ddd"/>')
    names = list(dict.fromkeys(name for seed in seeds.values() for name in seed["methods"]))
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<text x="{WIDTH - 184}" y="{TOP + 18 * index + 8}" fill="{colour}">{name}</text>')
        for seed in seeds.values():
            path = seed["methods"].get(name, {"points": []})["points"]
            places = " ".join(f"{x(point['kl']):.1f},{y(point['reward']):.1f}" for point in path)
            parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            for point in path:
                across, up = x(point["kl"]), y(point["reward"])
                parts.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" fill="{colour}"/>')
                if "reward_low" in point:
                    ends = f"M{across:.1f} {y(point['reward_low']):.1f}V{y(point['reward_high']):.1f}"
                    parts.append(f'<path d="{ends}" stroke="{colour}" stroke-opacity=".4"/>')
                if "kl_low" in point:
                    ends = f"M{x(point['kl_low']):.1f} {up:.1f}H{x(point['kl_high']):.1f}"
                    parts.append(f'<path d="{ends}" stroke="{colour}" stroke-opacity=".4"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    return f'{head} font-size="12" fill="#777">{"".join(parts)}</svg>\n'


def ticks(most: float) -> list[float]:
    """Nats to name on the axis."""
    return [kl for kl in (0, 0.25, 1, 2, 4, 8, 16, 32, 64) if kl <= most]
