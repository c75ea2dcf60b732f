"""What bandit selectors share: how much may be looked at, what every arm got so far, and who is better."""

import math
import random
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Pull = Callable[[Sequence[str], Sequence[Any]], list[list[float]]]


@dataclass(frozen=True)
class Rules:
    """How much may be looked at. Defaults: ProTeGi's command line; budget = 32 samples x 8 rounds x 8 arms a round."""

    budget: int = 2048  # pulls
    beam: int = 4  # arms that are wanted
    samples: int = 32  # rows of one UCB round
    prompts: int = 8  # arms of one UCB round, and of one comparison of simple rejects
    c: float = 1.0  # weight of the bonus; the command line's default
    released: bool = False


class Estimate(NamedTuple):
    """What is known of an arm: mean over so many rows, its standard error (infinite for fewer than two rows), and how
    long it stayed in the race; who stayed longer is better, whatever its mean."""

    mean: float
    rows: int
    error: float
    stayed: int = 0


class Race:
    """The pulls of one selection: what each arm got on each row, and how many pulls are left."""

    def __init__(self, arms: Sequence[str], rows: Sequence[Any], pull: Pull, budget: int, seed: str) -> None:
        self.arms, self.pull, self.left, self.seed = list(arms), pull, budget, seed
        self.rows = random.Random(f"{seed} rows").sample(list(rows), len(rows))
        self.values: dict[str, dict[int, float]] = {arm: {} for arm in arms}
        self.out: dict[str, int] = {}  # arm -> the phase after which it was dropped

    def look(self, arms: Sequence[str], count: int) -> None:
        """The same `count` rows for these arms, those that fewest of them have seen, as far as rows and budget go."""
        if count * len(arms) > self.left:
            arms, count = arms[: self.left], max(1, self.left // len(arms))
        seen = [sum(place in self.values[arm] for arm in arms) for place in range(len(self.rows))]
        drawn = sorted(range(len(self.rows)), key=lambda place: seen[place])[:count]
        drawn = [place for place in drawn if seen[place] < len(arms)]
        if not drawn:
            return
        for arm, found in zip(arms, self.pull(arms, [self.rows[place] for place in drawn]), strict=True):
            for place, value in zip(drawn, found, strict=True):
                self.left -= place not in self.values[arm]
                self.values[arm][place] = value

    def mean(self, arm: str) -> float:
        """The arm's mean over the rows that it saw; 0 for an arm that saw none."""
        return _mean(self.values[arm].values())

    def ranked(self, arms: Sequence[str]) -> list[str]:
        """Best first, by the rows that all of these arms have seen; one that was never looked at comes last, and of
        equals the one that is named first."""
        shared = set(self.values[arms[0]]).intersection(*(self.values[arm] for arm in arms))
        found = {arm: [self.values[arm][place] for place in shared or self.values[arm]] for arm in arms}
        return sorted(arms, key=lambda arm: (not found[arm], -_mean(found[arm])))

    def alive(self) -> list[str]:
        """Arms that were not dropped, in the seeded order."""
        return sorted((arm for arm in self.arms if arm not in self.out), key=lambda arm: lot(self.seed, arm))

    def estimates(self) -> list[Estimate]:
        """One for each arm, in the order in which they were given."""
        last = max(self.out.values(), default=0) + 1
        return [estimate(list(self.values[arm].values()), self.out.get(arm, last)) for arm in self.arms]


def lot(seed: str, arm: str) -> float:
    """What decides between equals: a number drawn by seed and name."""
    return random.Random(f"{seed} {arm}").random()


def estimate(values: Sequence[float], stayed: int = 0) -> Estimate:
    """Mean, rows and standard error of the mean of these values."""
    if not values:
        return Estimate(0.0, 0, math.inf, stayed)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(_mean(values), len(values), error, stayed)


def top(arms: Sequence[str], estimates: Sequence[Estimate], count: int, seed: str) -> list[str]:
    """The `count` best arms, best first: who stayed longest, then by mean; equals by the seeded order."""
    found = dict(zip(arms, estimates, strict=True))
    order = {arm: (-one.stayed, not one.rows, -one.mean, lot(seed, arm)) for arm, one in found.items()}
    return sorted(order, key=order.__getitem__)[:count]


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
