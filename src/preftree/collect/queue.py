"""The queue: which pair an annotator sees next, on which side, and for how long it is kept for them.

All of it is in memory and belongs to one thread; the store keeps what it decides, and a new queue reads that back.
Pairs are *picked* one after another; picked pairs are handed out in that order until each has its votes. Who has seen a
pair does not get it again, except as a hidden repeat with sides turned.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from preftree.collect.records import Kind, Picked, Settings, Shown, ShownNow
from preftree.collect.store import Store, new_shown_id

APART = 20
"""A repeat comes at least this many pairs after its first showing."""

OPEN, AHEAD = 12, 64
"""An annotator gets one of the first so many open pairs that they can vote on, from this far ahead. Were it always the
first one, people who work at one pace would share all their pairs with the same few others, and nothing would compare
them with the rest."""

REMEMBERED = 200
"""A repeat is one of the last so many pairs."""

Propose: TypeAlias = Callable[[], list[Picked]]


@dataclass(slots=True)
class _State:
    """A picked pair: its place in the order, votes, and leases by annotator."""

    place: int
    votes: int
    leases: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Visitor:
    """What the queue knows of an annotator.

    Attributes:
      seen: Pairs.
      waiting: What was shown and has no vote now, by id.
      turns: Rows of votes of what is waiting; 0 where not named.
      repeatable: Place in the order of showing, and what was shown, of the last votes that may be repeated.
      shown: Number of pairs shown.
      cursor: Place in the order of picked pairs before which none is left for the annotator.
      done: Number of pairs with a vote, skip or flag.
    """

    seen: set[int] = field(default_factory=set)
    waiting: dict[str, Shown] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    repeatable: dict[str, tuple[int, Shown]] = field(default_factory=dict)
    shown: int = 0
    cursor: int = 0
    done: int = 0


class Queue:
    """The queue of a project.

    Args:
      store: Keeps what is shown.
      propose: Gives the next pairs of an active picker, its random share included; empty where it has none yet.
    """

    def __init__(self, store: Store, now: float, propose: Propose = list) -> None:
        self._store, self._propose = store, propose
        self.settings: Settings = store.settings()
        self._states: dict[int, _State] = {}
        self._order: list[int] = []
        self._left: list[int] = []
        self._index: dict[int, int] = {}
        self._golds: list[int] = []
        self._proposed: list[Picked] = []
        self._visitors: dict[int, _Visitor] = {}
        self._expiring: list[tuple[float, int, int]] = []
        self._last_pair, self._now = 0, now
        self.votes, self.needed, self.num_pairs = 0, 0, 0
        self.add_pairs()
        for shown in store.leased(now):
            self._lease(shown, now)

    def add_pairs(self) -> None:
        """Take in the pairs that the store has got since."""
        overlap = self.settings.overlap
        rows = self._store.pairs(self._last_pair)
        for pair, gold, place, votes in rows:
            self._last_pair = max(self._last_pair, pair)
            if gold is not None:
                self._golds.append(pair)
                continue
            self.num_pairs += 1
            self.needed += overlap
            self.votes += min(votes, overlap)
            if place is not None:
                self._states[pair] = _State(place, votes)
            else:
                self._index[pair] = len(self._left)
                self._left.append(pair)
        # Finished pairs stand first, so that nobody who comes looks at them one by one.
        order = sorted((state.votes < overlap, state.place, pair) for pair, state in self._states.items())
        self._order = [pair for _, _, pair in order]
        self._first_open = sum(not is_open for is_open, _, _ in order)
        for place, pair in enumerate(self._order):
            self._states[pair].place = place

    def done_by(self, annotator: int) -> int:
        """Number of pairs that an annotator has voted on, repeats included."""
        return self._visitor(annotator).done

    def turns(self, annotator: int, shown: str) -> int:
        """Number of rows of votes of what is waiting for a vote."""
        return self._visitor(annotator).turns.get(shown, 0)

    def next(
        self, annotator: int, count: int, now: float, have: frozenset[str] = frozenset()
    ) -> tuple[list[Shown], list[Picked]]:
        """What an annotator sees next, at most `count` pairs beside those that the page has.

        Pairs that were shown to them and have no vote come first, with the same sides. There are fewer where the others
        are leased to other annotators, or where nothing is left.

        Returns:
          What is shown, and the pairs that were picked for it; both go to the store (`Store.show`) before the page.
        """
        self._expire(now)
        visitor = self._visitor(annotator)
        offered: list[Shown] = []
        for shown in list(visitor.waiting.values()):
            is_wanted = shown.id not in have and len(offered) < count
            state = self._states.get(shown.pair) if shown.visit == 0 else None
            if state is not None and annotator not in state.leases:
                if len(state.leases) + state.votes >= self.settings.overlap:
                    continue  # others have done it meanwhile; a vote that the page sends all the same is kept
                if not is_wanted and shown.id not in have:
                    continue
            if is_wanted or shown.id in have:
                shown = replace(shown, until=now + self.settings.lease)
                visitor.waiting[shown.id] = shown
                self._lease(shown, now)
            if is_wanted:
                offered.append(shown)
        picked: list[Picked] = []
        while len(offered) < count and (fresh := self._new(annotator, visitor, now, picked)) is not None:
            offered.append(fresh)
        return offered, picked

    def acted(self, shown: Shown, kind: Kind, turn: int, undone: Kind | None = None) -> None:
        """Take in a row of votes that the store has added.

        Args:
          shown: On what it was done.
          kind: What was done.
          turn: Number of earlier rows.
          undone: What an undo took back.
        """
        annotator, visitor = shown.annotator, self._visitor(shown.annotator)
        state = self._states.get(shown.pair) if shown.visit == 0 else None
        if kind == "undo":
            visitor.waiting[shown.id] = shown
            visitor.turns[shown.id] = turn + 1
            visitor.repeatable.pop(shown.id, None)
            visitor.done -= 1
            if state is not None:
                self._count(state, -1 if undone == "vote" else 0)
                if state.votes + len(state.leases) < self.settings.overlap:
                    self._lease(shown, self._now)
            return
        visitor.waiting.pop(shown.id, None)
        visitor.turns.pop(shown.id, None)
        visitor.done += 1
        if kind == "vote":
            self._let_repeat(visitor, shown, visitor.shown)
        if state is not None:
            state.leases.pop(annotator, None)
            self._count(state, 1 if kind == "vote" else 0)
            if kind != "vote":
                self._reopen(state)

    def load(self, annotator: int, history: list[ShownNow]) -> None:
        """Take in what an annotator was shown before this queue was made."""
        visitor = self._visitors[annotator] = _Visitor(cursor=self._first_open)
        repeated = {entry.shown.repeat_of for entry in history}
        for place, entry in enumerate(history):
            shown = entry.shown
            visitor.seen.add(shown.pair)
            if entry.last is None or entry.last == "undo":
                visitor.waiting[shown.id] = shown
                visitor.turns[shown.id] = entry.turns
                continue
            visitor.done += 1
            if entry.last == "vote" and shown.id not in repeated:
                self._let_repeat(visitor, shown, place)
        visitor.shown = len(history)

    def _visitor(self, annotator: int) -> _Visitor:
        if annotator not in self._visitors:
            self.load(annotator, self._store.shown_to(annotator))
        return self._visitors[annotator]

    def _let_repeat(self, visitor: _Visitor, shown: Shown, place: int) -> None:
        if shown.visit == 0:
            visitor.repeatable[shown.id] = (place, shown)
            if len(visitor.repeatable) > REMEMBERED:
                del visitor.repeatable[next(iter(visitor.repeatable))]

    def _new(self, annotator: int, visitor: _Visitor, now: float, picked: list[Picked]) -> Shown | None:
        roll = self._draw(f"kind:{annotator}:{visitor.shown}")
        golds, repeats = self.settings.golds, self.settings.repeats
        gold = next((pair for pair in self._golds if pair not in visitor.seen), None) if roll < golds else None
        if gold is not None:
            picked.append(Picked(gold, "gold", None, None))
            return self._show(annotator, visitor, gold, now)
        if golds <= roll < golds + repeats and (earlier := self._repeatable(visitor)) is not None:
            return self._show(annotator, visitor, earlier.pair, now, earlier)
        first = self._picked_pair(visitor)
        candidates = [] if first is None else [first, *self._next_open(visitor)]
        place = int(self._draw(f"open:{annotator}:{visitor.shown}") * OPEN)
        pair = candidates[place] if place < len(candidates) else self._pick(picked)
        if pair is None and candidates:  # nothing is left to be picked
            pair = candidates[place % len(candidates)]
        return None if pair is None else self._show(annotator, visitor, pair, now)

    def _show(self, annotator: int, visitor: _Visitor, pair: int, now: float, earlier: Shown | None = None) -> Shown:
        visit, until = 0 if earlier is None else 1, now + self.settings.lease
        left = self._draw(f"side:{pair}:{annotator}:{visit}") < 0.5 if earlier is None else not earlier.first_is_left
        repeat_of = None if earlier is None else earlier.id
        shown = Shown(new_shown_id(), pair, annotator, left, visit, now, until, repeat_of)
        visitor.waiting[shown.id] = shown
        visitor.seen.add(pair)
        visitor.shown += 1
        self._lease(shown, now)
        return shown

    def _repeatable(self, visitor: _Visitor) -> Shown | None:
        for number, (place, shown) in visitor.repeatable.items():
            if place + APART > visitor.shown:
                return None
            del visitor.repeatable[number]
            return shown
        return None

    def _picked_pair(self, visitor: _Visitor) -> int | None:
        """The first picked pair that lacks votes and leases, and that the annotator has not seen."""
        while visitor.cursor < len(self._order):
            pair = self._order[visitor.cursor]
            if pair not in visitor.seen and self._is_open(pair):
                return pair
            visitor.cursor += 1
        return None

    def _next_open(self, visitor: _Visitor) -> list[int]:
        """Further picked pairs, a little ahead of the first one, that lack votes and leases and were not seen."""
        ahead = self._order[visitor.cursor + 1 : visitor.cursor + 1 + AHEAD]
        return [pair for pair in ahead if pair not in visitor.seen and self._is_open(pair)][: OPEN - 1]

    def _is_open(self, pair: int) -> bool:
        state = self._states[pair]
        return state.votes + len(state.leases) < self.settings.overlap

    def _pick(self, picked: list[Picked]) -> int | None:
        if not self._left:
            return None
        place = len(self._order)
        if not self._proposed and self.settings.pick != "random":
            self._proposed = self._propose()
        while self._proposed:
            pick = self._proposed.pop(0)
            if pick.pair in self._index:
                return self._open(replace(pick, place=place), picked)
        pair = self._left[int(self._draw(f"pick:{place}") * len(self._left))]
        return self._open(Picked(pair, "random", 1 / len(self._left), place), picked)

    def _open(self, pick: Picked, picked: list[Picked]) -> int:
        place, last = self._index.pop(pick.pair), self._left.pop()
        if last != pick.pair:
            self._left[place], self._index[last] = last, place
        self._states[pick.pair] = _State(len(self._order), 0)
        self._order.append(pick.pair)
        picked.append(pick)
        return pick.pair

    def _lease(self, shown: Shown, now: float) -> None:
        """Keep a pair for who sees it; golds and repeats are nobody else's work."""
        if shown.visit == 0 and (state := self._states.get(shown.pair)) is not None:
            until = min(shown.until, now + self.settings.lease)
            state.leases[shown.annotator] = until
            heapq.heappush(self._expiring, (until, shown.pair, shown.annotator))

    def _expire(self, now: float) -> None:
        """Give back what was kept too long; after the clock went back, nothing is kept longer than a lease."""
        if now < self._now:
            latest = now + self.settings.lease
            self._expiring = [(min(until, latest), pair, annotator) for until, pair, annotator in self._expiring]
            heapq.heapify(self._expiring)
            for state in self._states.values():
                state.leases = {annotator: min(until, latest) for annotator, until in state.leases.items()}
        self._now = now
        while self._expiring and self._expiring[0][0] <= now:
            _, pair, annotator = heapq.heappop(self._expiring)
            state = self._states[pair]
            if state.leases.get(annotator, now + 1) <= now:
                del state.leases[annotator]
                self._reopen(state)

    def _count(self, state: _State, change: int) -> None:
        before = min(state.votes, self.settings.overlap)
        state.votes += change
        self.votes += min(state.votes, self.settings.overlap) - before

    def _reopen(self, state: _State) -> None:
        self._first_open = min(self._first_open, state.place)
        for visitor in self._visitors.values():
            visitor.cursor = min(visitor.cursor, state.place)

    def _draw(self, what: str) -> float:
        """A number in [0, 1) that the secret and the occasion decide."""
        digest = hmac.new(self._store.secret, what.encode(), hashlib.sha256).digest()
        return int.from_bytes(digest[:7], "big") / 2**56
