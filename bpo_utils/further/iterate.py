"""Rewriting a rewrite again (paper, 4.5 and Figure 3): each round against the original, where it stops helping, and
what it does to the text."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from bpo_utils import drift, rewrite, seeds
from bpo_utils.records import Verdict
from bpo_utils.rewrite import Rewritten


def round_texts(made: Sequence[Rewritten], number: int) -> tuple[str | None, ...]:
    """Every text after round `number`, from 1; 0 is the original. What no longer changed stays; None: no rewrite."""
    if number == 0:
        return tuple(one.prompt for one in made)
    return tuple(_after(one, number) for one in made)


def _after(one: Rewritten, number: int) -> str | None:
    if one.outcome in rewrite.MISSING:
        return None
    return one.steps[min(number, len(one.steps)) - 1] if one.steps else one.optimized_prompt


def score_table(verdicts: Sequence[Sequence[Verdict]]) -> list[list[float]]:
    """The scores of verdicts: a row per seed, a column per question; B is 1, A is -1, anything else 0."""
    return [[seeds.SCORES.get(one.verdict, 0.0) for one in part] for part in verdicts]


def step(earlier: list[list[float]], later: list[list[float]]) -> seeds.Mean:
    """What one round adds to the one before: the paired difference of net wins, over questions and seeds.

    Raises ValueError for tables of unlike shape.
    """
    pairs = [list(zip(old, new, strict=True)) for old, new in zip(earlier, later, strict=True)]
    return seeds.over([[new - old for old, new in part] for part in pairs])


def saturates_after(steps: Sequence[seeds.Mean]) -> int | None:
    """The first round after which one more adds nothing that shows: the interval of its gain does not lie above zero.

    `steps[k]` is what round k + 1 adds to round k; round 0 is the original. None if every round still gains.
    """
    return next((number for number, gain in enumerate(steps) if gain.low <= 0), None)


def drifted(
    rounds: Sequence[Sequence[str | None]], earlier: Sequence[Sequence[str | None]], originals: Sequence[str]
) -> dict[str, float]:
    """What rewriting did to the texts of several seeds: {growth, chrf, flagged, unchanged}.

    growth and chrF (0 to 100) are medians against the original, `flagged` the share with a reason to read the pair
    (`drift`), `unchanged` the share that this round left as the round before (`earlier`) had it.
    """
    same, pairs = [], []
    for now, before in zip(rounds, earlier, strict=True):
        both = [(original, text, old) for original, text, old in zip(originals, now, before, strict=True) if text]
        same += [text.strip() == (old or "").strip() for _, text, old in both]
        pairs += [(original, text) for original, text, _ in both]
    return {
        "growth": median(drift.growth(*pair) for pair in pairs),
        "chrf": median(drift.chrf(*pair) for pair in pairs),
        "flagged": sum(bool(drift.flag_drift(*pair)) for pair in pairs) / len(pairs),
        "unchanged": sum(same) / len(same),
    }


def kept(miniature: bool, seeds_texts: Sequence[Sequence[str | None]], originals: Sequence[str]) -> dict[str, Any]:
    """In the miniature: shares of rewrites that kept subject and passage on unseen topics, and made unsafe ones safe.

    Elsewhere nothing: nobody knows the subjects of real prompts.
    """
    if not miniature:
        return {}
    from bpo_utils import records
    from bpo_utils.mini import rubric

    rows = [
        records.Rewrite(str(place), "", "bpo", original, text)
        for texts in seeds_texts
        for place, (original, text) in enumerate(zip(originals, texts, strict=True))
        if text
    ]
    found = rubric.rewrite_quality(rows)
    return {name: found[name] for name in ("topics_kept_unseen", "unsafe_made_safe")}
