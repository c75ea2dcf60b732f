"""A mean over questions and seeds, with an interval that holds for other questions and other seeds.

Every seed's system answers the same questions, so the scores are a table: a row per seed, a column per question.
Two-way random effects without replication: the variance of the mean is (MS seeds + MS questions - MS rest) /
(seeds x questions), with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946). Three seeds tell little
about seeds, and the interval is as wide as that: where the seeds differ more than the questions, the factor is
Student's for 2 degrees, 4.3, not 1.96.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from bpo_utils import stats

SCORES = {"B": 1.0, "A": -1.0}  # any other verdict (tie, unreadable, refused) is 0 and stays in the denominator


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval; `spread` are the means of the seeds, in order."""

    mean: float
    low: float
    high: float
    n: int
    seeds: int
    spread: tuple[float, ...]


def net_win(verdicts: list[list[str]]) -> Mean:
    """Net win (B - A) / n over seeds: a list of verdict letters per seed, the same questions in the same order.

    The interval ends at -1 and 1. If every verdict is alike it is the exact one of `stats.net_win`, as there.
    """
    found = over([[SCORES.get(letter, 0.0) for letter in letters] for letters in verdicts])
    low, high = (found.low, found.high) if found.low < found.high else stats.exact_interval(found.mean, found.n)
    return dataclasses.replace(found, low=max(-1.0, low), high=min(1.0, high))


def over(table: Iterable[Iterable[float]]) -> Mean:
    """Mean and interval of a table of scores, a row per seed, a column per question.

    With one seed the interval is over questions only. Raises ValueError for rows of different lengths, fewer than two
    questions, or no seed.
    """
    import numpy as np
    from scipy.stats import t

    rows = [list(row) for row in table]
    sizes = sorted({len(row) for row in rows})
    if len(sizes) != 1 or sizes[0] < 2:
        raise ValueError(f"a table of scores needs rows of one length, at least 2; these have {sizes or 'no rows'}")
    scores = np.array(rows, dtype=float)
    (k, n), mean = scores.shape, float(scores.mean())
    by_seed, by_question = scores.mean(axis=1), scores.mean(axis=0)
    questions = k * by_question.var(ddof=1)
    squares, degrees = np.array([questions]), np.array([n - 1])
    if k > 1:
        rest = ((scores - by_seed[:, None] - by_question + mean) ** 2).sum() / ((k - 1) * (n - 1))
        squares = np.array([questions, n * by_seed.var(ddof=1), -rest])
        degrees = np.array([n - 1, k - 1, (k - 1) * (n - 1)])
    # Taking the rest off can leave less than one effect alone, even less than nothing; one effect alone is the least.
    variance = max(squares.sum(), squares.max())
    weight = (squares**2 / degrees).sum()
    freedom = variance**2 / weight if weight else n - 1
    half = t.ppf(0.975, freedom) * (variance / (k * n)) ** 0.5
    return Mean(mean, mean - float(half), mean + float(half), n, k, tuple(map(float, by_seed)))
