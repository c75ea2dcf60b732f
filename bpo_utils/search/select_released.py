"""ProTeGi's selectors as they were released, faults and all, so that they can be compared with the corrected ones.

microsoft/LMOps, prompt_optimization/evaluators.py. Rows of a round are drawn anew, without a look at what an arm has
seen; a row seen twice counts twice. What else differs stands in the docstrings of `select`.
"""

import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from bpo_utils.search.race import Estimate, Pull, Rules, estimate

UNSEEN = 0.001  # added to the rows of an arm in UCB, so that an arm without any has a huge bonus
ROUNDING = 1e-9  # ours: equal means, averaged, can come out above each of them
FLOOR = 4  # rows of a phase of Successive Rejects, at least


def rejects(arms: int, beam: int, budget: int) -> list[int]:
    """The rows of each phase in the released code: `arms - beam` stands for the arms, and no phase has under 4."""
    spread = 0.5 + sum(1 / i for i in range(2, arms - beam + 1))
    shares = [(budget - arms + beam) / spread / (arms - beam + 1 - k) for k in range(1, arms - beam + 1)]
    return [max(FLOOR, int(now - before)) for now, before in zip(shares, [0.0, *shares], strict=False)]


def ucb(
    arms: Sequence[str],
    rows: Sequence[Any],
    pull: Pull,
    rules: Rules,
    seed: str,
    bonus: Callable[[float, float, float, float], float],
) -> list[Estimate]:
    """Rounds of UCB or UCB-E, by `bonus`; t is the number of the round."""
    rng, values = random.Random(seed), {arm: [] for arm in arms}
    size, count = min(rules.prompts, len(arms)), min(rules.samples, len(rows))
    for t in range(rules.budget // (rules.samples * rules.prompts)):
        known = {arm: estimate(found) for arm, found in values.items()}
        index = {arm: bonus(one.mean, one.rows + UNSEEN, max(t, 1), rules.c) for arm, one in known.items()}
        some = sorted(arms, key=lambda arm: -index[arm])[:size] if t else rng.sample(list(arms), size)
        for arm, found in zip(some, pull(some, rng.sample(list(rows), count)), strict=True):
            values[arm] += found
    return [estimate(found) for found in values.values()]


def rejecting(
    arms: Sequence[str], rows: Sequence[Any], pull: Pull, seed: str, phases: Sequence[tuple[int, int]]
) -> list[Estimate]:
    """Phases of (arms drawn, fresh rows), each of which drops its worst; an estimate is that of its last phase."""
    rng, left, found = random.Random(seed), list(arms), {arm: Estimate(0.0, 0, math.inf) for arm in arms}
    for phase, (size, count) in enumerate(phases):
        some = left if size >= len(left) else rng.sample(left, size)
        values = dict(zip(some, pull(some, rng.sample(list(rows), min(count, len(rows)))), strict=True))
        found |= {arm: estimate(got, phase) for arm, got in values.items()}
        left.remove(min(some, key=lambda arm: found[arm].mean))
    return [found[arm]._replace(stayed=len(phases)) if arm in left else found[arm] for arm in arms]


def halving(arms: Sequence[str], rows: Sequence[Any], pull: Pull, rules: Rules, seed: str) -> list[Estimate]:
    """Rounds after which everybody who reaches the mean goes on; an estimate is that of the arm's last round."""
    rng, left, found = random.Random(seed), list(arms), {arm: Estimate(0.0, 0, math.inf) for arm in arms}
    rounds = math.ceil(math.log2(len(arms)))
    for phase in range(rounds):
        count = min(len(rows), rules.budget // (len(left) * rounds))
        if not count:  # the released code fails here
            break
        values = zip(left, pull(left, rng.sample(list(rows), count)), strict=True)
        found |= {arm: estimate(got, phase) for arm, got in values}
        average = statistics.fmean(found[arm].mean for arm in left)
        left = [arm for arm in left if found[arm].mean >= average - ROUNDING]
    return [found[arm]._replace(stayed=rounds) if arm in left else found[arm] for arm in arms]
