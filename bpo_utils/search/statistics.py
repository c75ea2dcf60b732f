"""What the searches of notebook 09 say: test scores with intervals, comparisons, anytime curves, costs.

Every search was tested on the same rows, so the scores of a method and budget are a table: a row per seed, a column per
test row. Methods are compared pair by pair on the same rows and seeds by a bootstrap that resamples both (Owen 2007,
arXiv 0711.1942: with both resampled the variance is rather too large than too small), p values are corrected by Holm's
method over each family of comparisons, all its budgets together.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

from bpo_utils import seeds, stats
from bpo_utils.search import methods

RESAMPLES = 10_000
FAMILIES = ("seed", "paraphrases", "pairs")  # against the first prompt, against the best of k, all pairs of methods
USED = ("target_calls", "optimizer_calls", "measured", "cached", "duplicates", "bad_replies", "unreadable")
Result = dict[str, Any]
Row = dict[str, Any]
Table = Sequence[Sequence[float]]  # a row per seed, a column per test row


class Difference(NamedTuple):
    """Mean of A - B, its 95 % percentile interval, and the two-sided p value of no difference."""

    mean: float
    low: float
    high: float
    p: float


def name_of(method: str) -> str:
    """A method's name as its file gives it."""
    return methods.find(method).NAME


def cells(results: Iterable[Result], blind: bool = False) -> dict[tuple[str, int], list[Result]]:
    """The results of each (method, budget), in the order of their seeds."""
    found: dict[tuple[str, int], list[Result]] = {}
    for one in results:
        if one["blind"] == blind:
            found.setdefault((one["method"], one["budget"]), []).append(one)
    return {key: sorted(group, key=lambda one: one["seed"]) for key, group in found.items()}


def table(group: Sequence[Result]) -> list[list[float]]:
    """The test scores of one cell, a row per seed. Raises ValueError if the seeds were tested on different rows."""
    rows = sorted(group[0]["scores"])
    if any(sorted(one["scores"]) != rows for one in group):
        raise ValueError(f"{group[0]['method']}: seeds were tested on different rows; search them again")
    return [[one["scores"][row] for row in rows] for one in group]


def scores(results: Sequence[Result]) -> list[Row]:
    """A row per method and budget: {method, name, budget, test, ci_low, ci_high, n, seeds, spread, dev, gap}.

    `test`: mean over seeds and rows, the interval is over both (`seeds.over`), cut at 0 and 1; `dev`: mean dev score of
    the candidates that were chosen by it; `gap` is dev - test, what choosing made look better than it is, and what the
    rows of both differ in.
    """
    found = []
    for (method, budget), group in cells(results).items():
        mean = seeds.over(table(group))
        dev = sum(one["dev"] for one in group) / len(group)
        row = {"method": method, "name": name_of(method), "budget": budget, "test": mean.mean}
        row |= {"ci_low": max(0.0, mean.low), "ci_high": min(1.0, mean.high), "n": mean.n, "seeds": mean.seeds}
        found.append(row | {"spread": list(mean.spread), "dev": dev, "gap": dev - mean.mean})
    return found


def largest(results: Sequence[Result], compared: Sequence[Row]) -> list[Row]:
    """A row per method at the largest budget, for the report: {name, test, ci_low, ci_high, n, seeds, budget, gain,
    gain_low, gain_high, p_holm, target_calls}; `gain`: over the seed prompt, from the rows of `comparisons`; that and p
    are None for the seed prompt itself."""
    top = max(budget for _, budget in cells(results))
    gains = {row["method"]: row for row in compared if row["family"] == "seed" and row["budget"] == top}
    used = {row["method"]: row["target_calls"] for row in costs(results) if row["budget"] == top}
    found = []
    for row in scores(results):
        if row["budget"] == top:
            told = {key: row[key] for key in ("name", "test", "ci_low", "ci_high", "n", "seeds", "budget")}
            gain = gains.get(row["method"], {})
            told |= {"gain": gain.get("difference"), "gain_low": gain.get("ci_low"), "gain_high": gain.get("ci_high")}
            told |= {"p_holm": gain.get("p_holm")}
            found.append(told | {"target_calls": used[row["method"]]})
    return found


def difference(first: Table, second: Table, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Mean of first - second over seeds and rows, paired; rows and seeds are resampled with replacement.

    The p value is twice the smaller share of resamples on either side of zero, each with one added (Davison and
    Hinkley 1997, section 4.2), so it is never 0. A table of one row is the same for every seed. Same seed, same
    numbers. Raises ValueError for tables that cannot be paired.
    """
    import numpy as np

    one, other = (np.asarray(each, dtype=float) for each in (first, second))
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or not one.size:
        raise ValueError(f"tables of {one.shape} and {other.shape} cannot be paired; test both on the same rows")
    if len({one.shape[0], other.shape[0]} - {1}) > 1:
        raise ValueError(f"{one.shape[0]} and {other.shape[0]} seeds cannot be paired; search both with the same seeds")
    apart = one - other
    k, n = apart.shape
    by_seed, by_row = _drawn(k, n, resamples, seed)
    means = ((by_seed @ apart) * by_row).sum(axis=1) / (k * n)
    low, high = np.quantile(means, [stats.TAIL, 1 - stats.TAIL])
    # sums of thirds and quarters: what is zero may come out as 1e-17
    sides = [1 + int((means <= 1e-12).sum()), 1 + int((means >= -1e-12).sum())]
    # 12 decimals, for the same reason
    mean, low, high = (round(float(value), 12) for value in (apart.mean(), low, high))
    return Difference(mean, low, high, min(1.0, 2 * min(sides) / (resamples + 1)))


def comparisons(results: Sequence[Result]) -> list[Row]:
    """A row per pair and budget: {family, method, against, budget, difference, ci_low, ci_high, p, p_holm, n, seeds}.

    Families: every method against the seed prompt (`seed`), every method against the best of k paraphrases
    (`paraphrases`), and all pairs of methods, without the two controls (`pairs`).
    """
    found, groups = [], cells(results)
    names = list(dict.fromkeys(method for method, _ in groups))
    own = [name for name in names if name not in FAMILIES]
    pairs = {"seed": [(name, "seed") for name in names if name != "seed" and "seed" in names]}
    pairs["paraphrases"] = [(name, "paraphrases") for name in own if "paraphrases" in names]
    pairs["pairs"] = list(combinations(own, 2))
    for budget in sorted({budget for _, budget in groups}):
        tables = {name: table(groups[name, budget]) for name in names}
        for family in FAMILIES:
            for one, other in pairs[family]:
                row = {"family": family, "method": one, "against": other, "budget": budget}
                found.append(row | _numbers(tables[one], tables[other]))
    return corrected(found, lambda row: row["family"])


def said(rows: Sequence[Row]) -> list[str]:
    """A sentence per family: which of its comparisons show, at 5 % after Holm's correction."""
    found = []
    for family in FAMILIES:
        mine = [row for row in rows if row["family"] == family]
        sure = [row for row in mine if row["p_holm"] < 2 * stats.TAIL]
        told = [f"{one['method']} {one['difference']:+.3f} {one['against']} ({one['budget']})" for one in sure]
        found.append(f"{family}: {len(sure)} of {len(mine)} show: {', '.join(told) or 'none'}")
    return found


def ablation(results: Sequence[Result]) -> list[Row]:
    """A row per method that also searched without evidence: {method, name, budget, test, blind_test, difference, ...,
    dev, blind_dev}; the difference is with - without, on test rows, p values corrected over these methods."""
    sighted, found = cells(results), []
    for (method, budget), group in cells(results, blind=True).items():
        seen = sighted[method, budget]
        both = {"test": seen, "blind_test": group}
        row = {"method": method, "name": name_of(method), "budget": budget}
        row |= {name: _mean(one["test"] for one in part) for name, part in both.items()}
        row |= _numbers(table(seen), table(group))
        found.append(row | {"dev": _mean(o["dev"] for o in seen), "blind_dev": _mean(o["dev"] for o in group)})
    return corrected(found, lambda row: "ablation")


def corrected(rows: list[Row], family: Callable[[Row], str]) -> list[Row]:
    """The rows with `p_holm` after `p`: Holm's correction over the rows of each family."""
    from statsmodels.stats.multitest import multipletests

    holm: dict[int, float] = {}
    for name in dict.fromkeys(map(family, rows)):
        places = [place for place, row in enumerate(rows) if family(row) == name]
        values = multipletests([rows[place]["p"] for place in places], method="holm")[1]
        holm |= dict(zip(places, map(float, values), strict=True))
    found = []
    for place, row in enumerate(rows):
        after = list(row).index("p") + 1
        items = list(row.items())
        found.append(dict([*items[:after], ("p_holm", holm[place]), *items[after:]]))
    return found


def curves(results: Sequence[Result]) -> list[Row]:
    """Anytime curves at each method's largest budget: {method, name, target_calls, dev, dev_low, dev_high, seeds}.

    `dev`: the dev score of the candidate that the search would return after so many calls, mean over seeds; low and
    high are the worst and the best seed. Before a search has any favourite it would return the prompt that it began
    with. A point stands wherever some seed's favourite changes, and at the end.
    """
    found, groups = [], cells(results)
    largest = max(budget for _, budget in groups)
    for (method, budget), group in groups.items():
        if budget != largest:
            continue
        traces = [_steps(one) for one in group]
        for calls in sorted({at for trace in traces for at, _ in trace}):
            now = [[dev for at, dev in trace if at <= calls][-1] for trace in traces]
            row = {"method": method, "name": name_of(method), "target_calls": calls, "dev": _mean(now)}
            found.append(row | {"dev_low": min(now), "dev_high": max(now), "seeds": len(now)})
    return found


def costs(results: Sequence[Result]) -> list[Row]:
    """A row per method and budget, what one search took in the mean over seeds: {method, name, budget, planned_target,
    target_calls, most_target, planned_optimizer, optimizer_calls, ...}; `most_target`: the seed with most of them."""
    found = []
    for (method, budget), group in cells(results).items():
        used = [one["counts"] for one in group]
        row = {"method": method, "name": name_of(method), "budget": budget}
        row |= {"planned_target": max(one["planned"]["target"] for one in group)}
        row |= {"most_target": max(one["target_calls"] for one in used)}
        row |= {"planned_optimizer": max(one["planned"]["optimizer"] for one in group)}
        row |= {name: _mean(one[name] for one in used) for name in USED}
        row |= {f"{role}_tokens": _mean(one[f"{role}_tokens"] for one in used) for role in ("target", "optimizer")}
        found.append(row | {"usd": _mean(one["usd"] for one in used), "seeds": len(group)})
    return found


@lru_cache(maxsize=4)
def _drawn(k: int, n: int, resamples: int, seed: int) -> tuple[Any, Any]:
    """How often each seed and each row is drawn in each resample: the same for all tables of one size."""
    import numpy as np

    draws = np.random.default_rng(seed)
    return tuple(draws.multinomial(size, np.full(size, 1 / size), size=resamples) for size in (k, n))


def _steps(one: Result) -> list[tuple[int, float]]:
    """(target calls, dev score) of a search's favourites that have one, from its beginning to its end."""
    trace = [(row["target_calls"], row["dev"]) for row in one["trace"] if row["dev"] is not None]
    end = (max([one["counts"]["target_calls"], *(at for at, _ in trace)]), one["dev"])
    return [(0, one["seed_dev"]), *sorted(trace, key=lambda pair: pair[0]), end]


def _numbers(first: Table, second: Table) -> Row:
    found = difference(first, second)
    told = {"difference": found.mean, "ci_low": found.low, "ci_high": found.high, "p": found.p}
    return told | {"n": len(first[0]), "seeds": len(first)}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
