"""Three metrics of what a policy does when it is told something: they differ, and the difference is the lesson.

Action accuracy is teacher-forced, over steps (the course report's metric): most steps need no language. An exact
sequence has every step right. Success is a rollout of the policy's own, judged by BabyAI's verifier.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bpo_utils import seeds
from bpo_utils.embodied import world
from bpo_utils.embodied.policy import Policy
from bpo_utils.embodied.world import Episode

METRICS = ("action_accuracy", "exact_sequence", "success")


@dataclass(frozen=True)
class Outcome:
    """One episode under one instruction: steps of the expert, how many the policy gets right, and its own rollout."""

    steps: int
    right: int
    success: bool


def outcomes(policy: Policy, episodes: Sequence[Episode], wanted: Sequence[tuple[int, str]]) -> list[Outcome]:
    """What comes of each (number of the episode, instruction)."""
    import numpy as np

    if not wanted:
        return []
    read = [(n, *policy.read(text)) for n, text in wanted]  # what reads the same comes out the same
    once = {each: one for each, one in zip(read, wanted, strict=True)}
    if len(once) < len(wanted):
        found = dict(zip(once, outcomes(policy, episodes, list(once.values())), strict=True))
        return [found[each] for each in read]
    texts = [text for n, text in wanted for _ in episodes[n].actions]
    views, expert = (np.concatenate([getattr(episodes[n], name) for n, _ in wanted]) for name in ("views", "actions"))
    steps = [len(episodes[n].actions) for n, _ in wanted]
    right = [int(part.sum()) for part in np.split(policy.act(texts, views) == expert, np.cumsum(steps)[:-1])]
    done = world.rollouts(policy.act, [(episodes[n].seed, text) for n, text in wanted])
    return [Outcome(*each) for each in zip(steps, right, (taken[-1] >= 0 for taken in done), strict=True)]


def rows(names: dict[str, Any], by_seed: Sequence[Sequence[Outcome]]) -> list[dict[str, Any]]:
    """A row per metric with its mean and 95 % interval over episodes and seeds (a list per seed, the same episodes)."""
    scores = {
        "action_accuracy": [_per_step(outcome) for outcome in by_seed],
        "exact_sequence": [[each.right == each.steps for each in outcome] for outcome in by_seed],
        "success": [[each.success for each in outcome] for outcome in by_seed],
    }
    return [names | {"metric": metric} | _interval(scores[metric]) for metric in METRICS]


def difference(names: dict[str, Any], first: Sequence[Sequence[Outcome]], second: Sequence[Sequence[Outcome]]) -> dict:
    """Success of the first less that of the second, paired by seed and episode."""
    pairs = [zip(a, b, strict=True) for a, b in zip(first, second, strict=True)]
    return names | {"metric": "success"} | _interval([[a.success - b.success for a, b in pair] for pair in pairs], -1.0)


def _per_step(episodes: Sequence[Outcome]) -> list[float]:
    """Scores per episode whose mean is the accuracy over all steps, and whose spread is that of the ratio."""
    steps, right = sum(each.steps for each in episodes), sum(each.right for each in episodes)
    accuracy, mean = right / steps, steps / len(episodes)
    return [accuracy + (each.right - accuracy * each.steps) / mean for each in episodes]


def _interval(table: Iterable[Iterable[float]], least: float = 0.0) -> dict[str, Any]:
    found = seeds.over([[float(each) for each in row] for row in table])
    # Shares that are all alike have no spread: Clopper and Pearson's interval, over episodes.
    if least == 0 and found.low == found.high and found.mean in (0, 1):
        from statsmodels.stats.proportion import proportion_confint

        low, high = proportion_confint(round(found.mean * found.n), found.n, method="beta")
        found = dataclasses.replace(found, low=float(low), high=float(high))
    ends = {"ci_low": max(least, found.low), "ci_high": min(1.0, found.high)}
    return {"mean": found.mean, **ends, "seeds": found.seeds, "episodes": found.n}
