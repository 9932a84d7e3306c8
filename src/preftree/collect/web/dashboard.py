"""Figures for the admin's page: worked out in a thread from one state of the file, kept until votes have come in."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from preftree.collect.read import last_vote
from preftree.collect.schema import connect
from preftree.collect.statistics import ProjectFigures, figures_of_project

PATIENCE = 1.5
"""Seconds that a page waits for figures."""

REST = 3.0
"""Figures are worked out again after so many times their own duration, so that voters keep the server's time."""

_PROBLEMS = """
SELECT v.kind, v.note, a.name, p.id, substr(i.prompt, 1, 400), v.at
FROM vote v JOIN shown s ON s.id = v.shown JOIN annotator a ON a.id = s.annotator JOIN pair p ON p.id = s.pair
JOIN item i ON i.id = p.item
WHERE (v.kind = 'flag' OR v.note <> '') AND NOT EXISTS (
  SELECT 1 FROM vote w WHERE w.shown = v.shown AND w.turn = v.turn + 1)
ORDER BY v.id DESC LIMIT 50
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """A flag or a note.

    Attributes:
      kind: Kind of the row.
      note: Words of the annotator.
      name: Name of the annotator.
      pair: Number of the pair.
      prompt: Beginning of its prompt.
      at: Second.
    """

    kind: str
    note: str
    name: str
    pair: int
    prompt: str
    at: float


@dataclass(frozen=True, slots=True)
class AdminFigures:
    """What the admin's page shows.

    Attributes:
      figures: Figures of the project.
      problems: The last flags and notes.
      flags: Pairs that several people have flagged, with their number.
      vote: Number of the last vote in it.
      at: Second of its making.
      took: Seconds that it took.
    """

    figures: ProjectFigures
    problems: tuple[Problem, ...]
    flags: tuple[tuple[int, int], ...]
    vote: int
    at: float
    took: float


@dataclass(slots=True)
class Dashboard:
    """The last panel, and the work on the next one.

    Attributes:
      path: The project file.
      panel: The last panel; None before the first.
      work: The work in progress.
    """

    path: Path
    panel: AdminFigures | None = None
    work: asyncio.Future[AdminFigures] | None = field(default=None, repr=False)

    async def latest(self, last: int) -> AdminFigures | None:
        """The last panel; a newer one where it is there soon. None where the first one takes longer.

        Args:
          last: Number of the project's last vote.
        """
        rested = self.panel is None or time.time() - self.panel.at > REST * self.panel.took
        if self.work is None and (self.panel is None or (self.panel.vote != last and rested)):
            self.work = asyncio.ensure_future(asyncio.to_thread(_work_out, self.path))
        if self.work is not None:
            done, _ = await asyncio.wait([self.work], timeout=PATIENCE)
            if done:
                work, self.work = self.work, None
                self.panel = work.result() if work is not None else self.panel
        return self.panel


def _work_out(path: Path) -> AdminFigures:
    begun = time.monotonic()
    project = connect(path, write=False)
    try:
        project.execute("BEGIN")  # one state of the file throughout
        vote, figures = last_vote(project), figures_of_project(project)
        problems = tuple(Problem(*row) for row in project.execute(_PROBLEMS))
    finally:
        project.close()
    flagged = Counter(problem.pair for problem in problems if problem.kind == "flag")
    several = tuple((pair, count) for pair, count in flagged.most_common() if count > 1)
    return AdminFigures(figures, problems, several, vote, time.time(), time.monotonic() - begun)
