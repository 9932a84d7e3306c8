"""The queue: overlap, leases, repeats with sides turned, golds, sides, and never empty while work remains."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from preftree.collect.queue import APART, Queue
from preftree.collect.records import Annotator, Choice, Kept, Picked, Settings, Shown, ShownNow, Vote
from preftree.collect.store import OutOfTurn, Store
from support.collect import with_settings

PEOPLE = 20


@dataclass
class Memory:
    """A store that keeps nothing: the tests' own, without SQL."""

    given: Settings
    golds: dict[int, Choice]
    num_pairs: int
    secret: bytes = b"secret"
    picked: dict[int, Picked] = field(default_factory=dict)
    all_shown: dict[str, Shown] = field(default_factory=dict)
    rows: dict[str, list[Vote]] = field(default_factory=dict)

    def settings(self) -> Settings:
        return self.given

    def pairs(self, after: int = 0) -> list[tuple[int, Choice | None, int | None, int]]:
        numbers = range(after + 1, self.num_pairs + 1)
        return [
            (n, self.golds.get(n), self.picked[n].place if n in self.picked else None, self.votes(n)) for n in numbers
        ]

    def votes(self, pair: int) -> int:
        return sum(self.last(s) == "vote" for s in self.all_shown.values() if s.pair == pair and s.visit == 0)

    def last(self, shown: Shown) -> str | None:
        return self.rows[shown.id][-1].kind if self.rows.get(shown.id) else None

    def shown_to(self, annotator: int) -> list[ShownNow]:
        mine = [shown for shown in self.all_shown.values() if shown.annotator == annotator]
        return [ShownNow(shown, self.last(shown), len(self.rows.get(shown.id, []))) for shown in mine]  # type: ignore[arg-type]

    def leased(self, now: float) -> list[Shown]:
        return [
            shown
            for shown in self.all_shown.values()
            if len(self.rows.get(shown.id, [])) % 2 == 0 and shown.until > now
        ]

    def show(self, shown, picked) -> Future[None]:
        for pick in picked:
            self.picked.setdefault(pick.pair, pick)
        for one in shown:
            self.all_shown[one.id] = one
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def shown(self, number: str) -> Shown | None:
        return self.all_shown.get(number)

    def vote(self, votes) -> Future[list[Kept]]:
        kept = []
        for vote in votes:
            rows = self.rows.setdefault(vote.shown, [])
            if vote.turn > len(rows):
                raise OutOfTurn
            before = rows[-1].kind if rows else None
            if vote.turn == len(rows):
                rows.append(vote)
                kept.append(Kept(vote, True, before))
            else:
                kept.append(Kept(rows[vote.turn], False, None))
        done: Future[list[Kept]] = Future()
        done.set_result(kept)
        return done

    def annotator(self, number: int) -> Annotator | None:
        return Annotator(number, f"person {number}", f"a{number}")


@dataclass
class Work:
    """People at work on a project, the clock included."""

    store: Memory
    now: float = 1000.0
    late: Counter[int] = field(default_factory=Counter)
    until: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Make the queue from the store, as after a restart."""
        self.look_at_clock()
        self.asked = self.now
        self.queue = Queue(self.store, self.now)
        self.until |= {shown.id: shown.until for shown in self.store.leased(self.now)}
        self.look_at_clock()

    def look_at_clock(self) -> None:
        """After the clock went back nothing is kept longer than a lease; count what was kept too long."""
        longest = self.now + self.store.given.lease
        self.until = {number: min(until, longest) for number, until in self.until.items()}
        for number, until in list(self.until.items()):
            shown = self.store.all_shown[number]
            if until <= self.now:
                del self.until[number]
                self.late[shown.pair] += shown.visit == 0 and self.store.last(shown) in (None, "undo")

    def next(self, annotator: int, count: int = 1) -> list[Shown]:
        self.look_at_clock()
        self.asked = self.now
        shown, picked = self.queue.next(annotator, count, self.now)
        assert len(shown) <= count
        if not shown:
            assert self.unseen_work(annotator) == []
        self.store.show(shown, picked).result()
        self.until |= {one.id: one.until for one in shown}
        return shown

    def unseen_work(self, annotator: int) -> list[int]:
        seen = {shown.pair for shown in self.store.all_shown.values() if shown.annotator == annotator}
        free = [
            pair for pair in range(1, self.store.num_pairs + 1) if pair not in seen and pair not in self.store.golds
        ]
        held = self.held()
        return [pair for pair in free if self.store.votes(pair) + held[pair] < self.store.given.overlap]

    def held(self) -> Counter[int]:
        """Leases of each pair that is somebody's work."""
        shown = [self.store.all_shown[number] for number in self.until]
        return Counter(
            one.pair
            for one in shown
            if one.visit == 0 and self.store.last(one) in (None, "undo") and one.pair not in self.store.golds
        )

    def act(self, shown: Shown, kind: str) -> None:
        rows = self.store.rows.get(shown.id, [])
        choice = "first" if kind == "vote" else None
        vote = Vote(shown.id, len(rows), kind, choice, None, 9, self.now)  # type: ignore[arg-type]
        (kept,) = self.store.vote([vote]).result()
        self.until.pop(shown.id, None)
        if kind == "undo" and shown.visit == 0:
            if self.store.votes(shown.pair) + self.held()[shown.pair] < self.store.given.overlap:
                self.until[shown.id] = min(shown.until, self.asked + self.store.given.lease)
            else:  # others were given the pair after a skip that is taken back now: as after a lease that ran out
                self.late[shown.pair] += 1
        self.queue.acted(shown, kept.row.kind, vote.turn, kept.before)


def check(work: Work) -> None:
    store = work.store
    votes: Counter[int] = Counter()
    places: dict[int, list[Shown]] = {}
    for shown in store.all_shown.values():
        votes[shown.pair] += shown.visit == 0 and store.last(shown) == "vote" and shown.pair not in store.golds
        places.setdefault(shown.annotator, []).append(shown)
    for pair, count in (votes + work.held()).items():
        assert count <= store.given.overlap + work.late[pair], pair
    for mine in places.values():
        assert len({(shown.pair, shown.visit) for shown in mine}) == len(mine)
        for place, shown in enumerate(mine):
            assert (shown.visit == 0) == (shown.repeat_of is None)
            if shown.repeat_of is not None:
                first = store.all_shown[shown.repeat_of]
                assert (first.pair, first.annotator, first.visit) == (shown.pair, shown.annotator, 0)
                assert first.first_is_left != shown.first_is_left
                assert place - mine.index(first) >= APART


EVENTS = ["next"] * 6 + ["vote"] * 6 + ["skip", "flag", "undo", "clock", "clock", "restart"]


@given(
    st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 25), st.sampled_from([0.0, 0.3]), st.sampled_from([0, 2])
)
@settings(max_examples=40)
def test_people_who_come_and_go_while_the_clock_jumps(seed, overlap, pairs, repeats, golds) -> None:
    chance = random.Random(seed)
    given = Settings(overlap=overlap, lease=60.0, repeats=repeats, golds=0.2)
    work = Work(Memory(given, dict.fromkeys(range(1, golds + 1), "first"), pairs + golds))
    store = work.store
    people = chance.sample(range(1, PEOPLE + 1), chance.randint(1, PEOPLE))
    for _ in range(chance.randint(0, 200)):
        name, who = chance.choice(EVENTS), chance.choice(people)
        if name == "next":
            work.next(who, chance.randint(1, 6))
        elif name == "clock":
            work.now += chance.choice([1, 5, 40, 70, 5000, -30, -5000])
        elif name == "restart":
            work.begin()
        else:
            mine = [s for s in store.all_shown.values() if s.annotator == who]
            open_, done = ([s for s in mine if (store.last(s) in (None, "undo")) == want] for want in (True, False))
            if of := done if name == "undo" else open_:
                work.act(chance.choice(of), name)
        check(work)
    # All come back, wait for what others hold, and vote on what they get: every pair has its votes then.
    for _ in range(3):
        work.now += 61
        for who in range(1, PEOPLE + 6):
            for _ in range(400):
                shown = work.next(who, 5)
                if not shown:
                    break
                for one in shown:
                    work.act(one, "vote")
    check(work)
    short = [pair for pair in range(golds + 1, golds + pairs + 1) if store.votes(pair) < overlap]
    assert short == [] and work.queue.votes == work.queue.needed


def test_one_person_alone_gets_everything_once_and_then_repeats_no_more() -> None:
    work = Work(Memory(Settings(overlap=3, repeats=0.2, golds=0.1), {1: "tie", 2: "first"}, 120))
    while shown := work.next(1, 4):
        for one in shown:
            work.act(one, "vote")
    check(work)
    all_shown = list(work.store.all_shown.values())
    assert len({shown.pair for shown in all_shown if shown.visit == 0}) >= 118
    repeats = sum(shown.visit for shown in all_shown)
    assert 8 <= repeats <= 50
    assert all(work.store.picked[pair].by == "gold" for pair in (1, 2) if pair in work.store.picked)


def test_what_a_reload_shows_is_what_was_there_on_the_same_sides() -> None:
    work = Work(Memory(with_settings(), {}, 40))
    before = work.next(1, 5)
    again = work.next(1, 5)
    assert [(s.id, s.first_is_left) for s in before] == [(s.id, s.first_is_left) for s in again]
    work.queue = Queue(work.store, work.now)
    assert [(s.id, s.first_is_left) for s in work.next(1, 5)] == [(s.id, s.first_is_left) for s in before]


def test_sides_are_even_and_depend_on_the_secret() -> None:
    sides = []
    for secret in (b"one", b"two"):
        work = Work(Memory(with_settings(overlap=PEOPLE), {}, 60, secret=secret))
        shown = {(s.pair, who): s.first_is_left for who in range(1, PEOPLE + 1) for s in work.next(who, 60)}
        assert len(shown) == 60 * PEOPLE
        assert binomtest(sum(shown.values()), len(shown)).pvalue > 0.01
        sides.append(shown)
    same = sum(sides[0][key] == sides[1][key] for key in sides[0])
    assert binomtest(same, len(sides[0])).pvalue > 0.01


def test_random_picks_say_with_which_probability() -> None:
    work = Work(Memory(with_settings(), {}, 30))
    work.next(1, 30)
    picks = sorted(work.store.picked.values(), key=lambda pick: pick.place or 0)
    assert [pick.p for pick in picks] == pytest.approx([1 / left for left in range(30, 0, -1)])
    assert [pick.pair for pick in picks] != sorted(pick.pair for pick in picks)


def test_proposed_pairs_come_first_and_random_ones_where_there_are_none() -> None:
    store = Memory(replace(with_settings(), pick="d-optimal"), {}, 30)
    proposals = [[Picked(7, "active", 0.9, None), Picked(3, "random", 0.004, None)], []]
    queue = Queue(store, 0.0, lambda: proposals.pop(0) if proposals else [])
    shown, picked = queue.next(1, 4, 0.0)
    assert [s.pair for s in shown][:2] == [7, 3]
    assert [(p.by, p.place) for p in picked] == [("active", 0), ("random", 1), ("random", 2), ("random", 3)]
    assert picked[2].p == pytest.approx(1 / 28)


def test_a_store_is_a_store() -> None:
    assert isinstance(Memory(Settings(), {}, 1), Store)
