"""A synthetic landscape with a known optimum and noise, for tests and studies of budgets. Nothing in it is a model.

Every item needs one of twelve phrases in the instruction, the first far more often than the last; four of them are
never needed. An answer is right with probability HIT if the phrase is there and MISS if not, less CLUTTER for each
phrase beyond FREE, which makes a long list worse than a good choice. Right or wrong is drawn by a hash of item and
set of phrases: the same question always has the same answer, and noise cannot be removed by asking again.
"""

import hashlib
import itertools
from functools import cache

from bpo_utils.chat import wire
from bpo_utils.search.task import Mark, Row, Task

PHRASES = (
    "check each unit", "name the place", "keep the order", "quote the rule", "give the date", "state the limit",
    "count the parts", "show the sum", "use plain words", "be brief", "stay polite", "think twice",
)  # fmt: skip
NEEDED = 8  # the first ones; the others only clutter
HIT, MISS = 0.9, 0.15
FREE, CLUTTER = 4, 0.06


def weights() -> list[float]:
    """How often each phrase is needed; adds to 1."""
    raw = [1 / (place + 1) ** 0.7 if place < NEEDED else 0.0 for place in range(len(PHRASES))]
    return [one / sum(raw) for one in raw]


def need(item: str) -> str:
    """The phrase that an item needs."""
    point, below = _uniform("need", item), 0.0
    for phrase, weight in zip(PHRASES, weights(), strict=True):
        below += weight
        if point < below:
            return phrase
    return PHRASES[NEEDED - 1]


def value(phrases: frozenset[str]) -> float:
    """The true accuracy of an instruction with these phrases, over infinitely many items."""
    share = sum(weight for phrase, weight in zip(PHRASES, weights(), strict=True) if phrase in phrases)
    return share * _right(True, len(phrases)) + (1 - share) * _right(False, len(phrases))


@cache
def optimum() -> tuple[frozenset[str], float]:
    """The best set of phrases and its true accuracy, by trying all 4,096."""
    sets = itertools.chain.from_iterable(itertools.combinations(PHRASES, size) for size in range(len(PHRASES) + 1))
    return max(((frozenset(one), value(frozenset(one))) for one in sets), key=lambda pair: pair[1])


def phrases_in(text: str) -> frozenset[str]:
    """The phrases that a text holds."""
    return frozenset(phrase for phrase in PHRASES if phrase in text.lower())


def answer(asked: wire.Request) -> str:
    """The target's answer to a prompt that holds one item and an instruction."""
    item = next((line for line in asked.prompt.split("\n") if line.startswith("item ")), "")
    used = phrases_in(asked.prompt.replace(item, "")) | phrases_in(asked.answer_start)
    wanted = need(item)
    right = _uniform(item, *sorted(used)) < _right(wanted in used, len(used))
    other = next(phrase for phrase in PHRASES if phrase != wanted)
    return f"did: {wanted if right else other}"


def task(train: int = 60, dev: int = 40, test: int = 200, draw: int = 1) -> Task:
    """The landscape as a task; `draw` numbers disjoint draws of items."""
    items = [f"item {number}" for number in range(draw * 100_000, draw * 100_000 + train + dev + test)]
    rows = [Row(item.replace(" ", "-"), item, f"did: {need(item)}") for item in items]
    sets = rows[:train], rows[train : train + dev], rows[train + dev :]
    about = "The model gets an item and an instruction, and does what the instruction names."
    return Task("landscape", about, "Do it well.", *map(tuple, sets), _exact)


def _exact(row: Row, text: str) -> Mark:
    return Mark(float(text == row.gold), text, not text.startswith("did: "))


def _right(hit: bool, used: int) -> float:
    return max(0.0, (HIT if hit else MISS) - CLUTTER * max(0, used - FREE))


def _uniform(*parts: str) -> float:
    return int.from_bytes(hashlib.sha256("|".join(parts).encode()).digest()[:6]) / 2**48
