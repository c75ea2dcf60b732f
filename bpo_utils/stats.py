"""Win rates with intervals and tests: one row per test set, answer model and judge.

Letters are the course's: A original better, B optimized better, C tie, invalid (unreadable), refused (content filter).
The net win is (B - A) / n, the paper's delta win rate on one test set as a fraction. Invalid and refused verdicts stay
in n and count for neither side. Questions are the units: the two orders of one question are never two observations
(Miller 2024, arXiv 2411.00640). Steadiness and agreement of judges: `agreement`; equal length: `length_control`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from bpo_utils.records import LETTERS, TEST_SETS, Verdict

TAIL = 0.025  # each side of a 95 % interval
KEYS = ("test_set", "answer_model", "judge", "rewriter")  # what names a row of a table
POINTS = {"A": 0.0, "B": 1.0}  # of one order; a tie, an unreadable and a refused verdict are worth half each
Interval = tuple[float, float, float]


def net_win(counts: dict[str, int]) -> Interval:
    """Net win (B - A) / n of one test set and its 95 % interval, all as fractions in [-1, 1].

    Student's t with n - 1 degrees of freedom on the standard error sqrt(((w + l) / n - D^2) / (n - 1)), which is the
    sample standard deviation of +1, 0, -1 over sqrt(n). If all n questions came out alike that error is zero and says
    nothing, so the interval is then the exact (Clopper-Pearson) one for a share of n out of n; this covers n = 1.
    Raises ValueError for n = 0 or an unknown letter.
    """
    from scipy.stats import t

    n = _total(counts)
    wins, losses = counts.get("B", 0), counts.get("A", 0)
    net = (wins - losses) / n
    if max(wins, losses, n - wins - losses) == n:
        return net, *exact_interval(net, n)
    half = t.isf(TAIL, n - 1) * (((wins + losses) / n - net**2) / (n - 1)) ** 0.5
    return net, max(-1.0, float(net - half)), min(1.0, float(net + half))


def pooled_net_win(counts_by_set: dict[str, dict[str, int]], resamples: int = 10_000, seed: int = 0) -> Interval:
    """Net win over all questions of all test sets and its 95 % percentile interval, as fractions.

    The bootstrap is stratified: within each test set as many questions are drawn with replacement as it has, which for
    counts is one multinomial draw. Same seed, same interval. Raises ValueError for no questions or an unknown letter.
    """
    strata = []
    for counts in counts_by_set.values():
        decided = [counts.get("A", 0), counts.get("B", 0), counts.get("C", 0)]
        strata.append([*decided, _total(counts) - sum(decided)])
    return _stratified([-1, 1, 0, 0], strata, resamples, seed)


def average_net_win(verdicts_by_set: dict[str, list[Verdict]], resamples: int = 10_000, seed: int = 0) -> Interval:
    """Net win when the two orders of a question are averaged, and its 95 % interval, as fractions.

    In one order B gives +1, A -1, and a tie, an unreadable or a refused verdict 0; a question gives the mean of its two
    orders. So a win in one order and a tie in the other is half a win, where `net_win` sees a tie. One test set: t
    interval with n - 1 degrees of freedom; several: the stratified bootstrap of `pooled_net_win`. Arena-Hard (arXiv
    2406.11939) averages both games like this.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    levels = (-1.0, -0.5, 0.0, 0.5, 1.0)
    strata = [Counter(2 * average_score(row) - 1 for row in rows) for rows in verdicts_by_set.values()]
    if len(strata) > 1 or len(set().union(*strata)) == 1:  # no spread, no t interval
        return _stratified(levels, [[counts[level] for level in levels] for counts in strata], resamples, seed)
    found = DescrStatsW(sorted(strata[0].elements()))
    low, high = found.tconfint_mean(2 * TAIL)
    return float(found.mean), max(-1.0, float(low)), min(1.0, float(high))


def average_score(verdict: Verdict) -> float:
    """Score of the optimized prompt on one question, 0 to 1 in steps of 1/4: the mean over the two orders."""
    return (POINTS.get(verdict.original_first, 0.5) + POINTS.get(verdict.optimized_first, 0.5)) / 2


def sign_test(counts: dict[str, int]) -> float:
    """Exact two-sided p value of B against A among the decided questions; 1 if none is decided."""
    from scipy.stats import binomtest

    _total(counts)
    decided = counts.get("A", 0) + counts.get("B", 0)
    return float(binomtest(counts.get("B", 0), decided).pvalue) if decided else 1.0


def smallest_detectable(n: int, tie_rate: float = 0.3, power: float = 0.8) -> float | None:
    """Smallest true net win, a fraction, that n questions show at the 5 % level with this power; None if none does.

    `tie_rate` is the share of questions that no side wins; fewer decided questions vary less, so the smallest net win
    shrinks with its root. Normal approximation with the variance under "no difference"; the exact sign test needs
    slightly more. Raises ValueError if n < 1 or a share is out of range.
    """
    from statsmodels.stats.power import NormalIndPower

    if n < 1 or not 0 <= tie_rate <= 1 or not 2 * TAIL < power < 1:
        raise ValueError(f"n {n}, tie rate {tie_rate}, power {power}: needs n >= 1, tie rate 0 to 1, power 0.05 to 1")
    if tie_rate == 1:
        return None
    standardised = NormalIndPower().solve_power(nobs1=n, alpha=2 * TAIL, power=power, ratio=0)  # ratio 0: one sample
    found = float(standardised) * (1 - tie_rate) ** 0.5
    return found if found <= 1 - tie_rate else None  # a net win cannot exceed the share of decided questions


def summarise(verdicts: list[Verdict], keep_rewriter: bool = False) -> list[dict]:
    """Rows of results.json: for each answer model and judge one row per test set and one `pooled` row.

    Each row is {test_set, answer_model, judge, n, counts, net_win, ci_low, ci_high}, with `rewriter` after `judge` if
    `keep_rewriter`. Raises ValueError if a question was judged twice or several rewriters would be mixed in one row.
    """
    return [_row(names, sets) for names, sets in _cells(verdicts, keep_rewriter)]


def panel(verdicts: list[Verdict], keep_rewriter: bool = False) -> list[dict]:
    """The rows of `summarise` with everything that can be said from the verdicts alone; all numbers are fractions.

    Added to each row: win_score with win_score_low and _high (B and half of all that neither side won, over n: the net
    win on a scale from 0 to 1); average_score with _low and _high and average_net_win (`average_net_win`); p
    (`sign_test`) and p_holm, corrected by Holm's method over all rows of this table, the pooled ones included;
    smallest_detectable at the row's own n and share of undecided questions. Raises ValueError as `summarise`.
    """
    from statsmodels.stats.multitest import multipletests

    rows = []
    for names, sets in _cells(verdicts, keep_rewriter):
        row = _row(names, sets)
        row |= _on_unit_scale("win_score", (row["net_win"], row["ci_low"], row["ci_high"]))
        average = average_net_win(sets)
        row |= _on_unit_scale("average_score", average) | {"average_net_win": average[0]}
        undecided = 1 - (row["counts"]["A"] + row["counts"]["B"]) / row["n"]
        row["p"], row["smallest_detectable"] = sign_test(row["counts"]), smallest_detectable(row["n"], undecided)
        rows.append(row)
    corrected = multipletests([row["p"] for row in rows], method="holm")[1] if rows else []
    return [row | {"p_holm": float(p)} for row, p in zip(rows, corrected, strict=True)]


def side_by_side(first: list[dict], *others: list[dict]) -> list[dict]:
    """Rows of several tables as one table: rows of one test set, answer model, judge (and rewriter) become one row.

    For `panel`, `agreement.habits` and `length_control.table`, all of one rewriter; they share no other names. Raises
    ValueError if a row of the first table is missing in another one.
    """
    joined, *found = ({tuple(row.get(key) for key in KEYS): row for row in table} for table in (first, *others))
    for key in joined:
        for table in found:
            if key not in table:
                named = ", ".join(filter(None, key))
                raise ValueError(f"{named}: no such row in one of the tables; make all from the same verdicts")
            joined[key] = joined[key] | table[key]
    return list(joined.values())


def tables(verdicts: list[Verdict]) -> dict[str, list[dict]]:
    """The two tables of results.json: `rows` for the rewriter bpo, `controls` (with `rewriter`) for all others."""
    return {
        "rows": summarise([row for row in verdicts if row.rewriter == "bpo"]),
        "controls": summarise([row for row in verdicts if row.rewriter != "bpo"], keep_rewriter=True),
    }


def delta_wr(rows: list[dict]) -> list[dict]:
    """The paper's delta win rate: the unweighted mean of the net win over the test sets, per answer model and judge.

    Takes rows of `summarise`, leaves out the pooled ones. Returns {answer_model, judge, test_sets, delta_wr}, a
    fraction. The four sets are of unequal size, so the 80 Vicuna questions weigh as much as the 252 of Self-Instruct.
    """
    nets: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["test_set"] != "pooled":
            nets.setdefault((row["answer_model"], row["judge"]), []).append(row["net_win"])
    names = ("answer_model", "judge")
    return [dict(zip(names, key, strict=True), test_sets=len(net), delta_wr=_mean(net)) for key, net in nets.items()]


def tie_rates(verdicts: list[Verdict]) -> list[dict]:
    """Ties per answer model and judge over all test sets: {answer_model, judge, n, tie_rate}, a fraction of all n."""
    groups: dict[tuple[str, str], list[bool]] = {}
    for row in verdicts:
        groups.setdefault((row.answer_model, row.judge), []).append(row.verdict == "C")
    names = ("answer_model", "judge")
    return [dict(zip(names, key, strict=True), n=len(ties), tie_rate=_mean(ties)) for key, ties in groups.items()]


def tie_comparison(verdicts: list[Verdict], stronger: str, weaker: str, judge: str, rewriter: str = "bpo") -> dict:
    """Are ties more frequent for the stronger answer model? Paired on the questions that both answered, one judge.

    Returns {n, tie_stronger, tie_weaker, difference, ci_low, ci_high}; the difference is stronger minus weaker, as a
    fraction, with the same interval as `net_win` since each question gives +1, 0 or -1. An invalid verdict is no tie.
    Raises ValueError if no question is shared.
    """
    ties = {stronger: {}, weaker: {}}
    for row in verdicts:
        if row.judge == judge and row.rewriter == rewriter and row.answer_model in ties:
            ties[row.answer_model][row.test_set, row.id] = row.verdict == "C"
    shared = ties[stronger].keys() & ties[weaker].keys()
    if not shared:
        raise ValueError(f"judge {judge}, rewriter {rewriter}: no question answered by both {stronger} and {weaker}")
    letters = {1: "B", 0: "C", -1: "A"}
    counts = Counter(letters[ties[stronger][question] - ties[weaker][question]] for question in shared)
    difference, low, high = net_win(counts)
    rates = [_mean(ties[model][question] for question in shared) for model in (stronger, weaker)]
    interval = {"difference": difference, "ci_low": low, "ci_high": high}
    return {"n": len(shared), "tie_stronger": rates[0], "tie_weaker": rates[1], **interval}


def preference_summary(preferences: Iterable[float]) -> dict:
    """AlpacaEval's figures for soft preferences from 1 (baseline better) to 2 (model better), in percent.

    Returns {n, win_rate, standard_error, discrete_win_rate}: the mean preference less 1; its sample standard deviation
    over sqrt(n), None for n = 1; and the wins with half the ties, where only exactly 1.5 is a tie. Source: Dubois et
    al. 2024, arXiv 2404.04475, and the columns of its leaderboard. Raises ValueError for no values or one outside 1 to
    2; NaN, AlpacaEval's mark for a judgment it could not read, is one of those.
    """
    import numpy as np
    from scipy.stats import sem

    values = np.asarray(list(preferences), dtype=float)
    wrong = values[~((values >= 1) & (values <= 2))]
    if not len(values) or len(wrong):
        found = f"{len(wrong)} of {len(values)}, the first {wrong[0]}" if len(wrong) else "no preferences"
        raise ValueError(f"{found}; needs numbers from 1 (baseline better) to 2 (model better)")
    return {
        "n": len(values),
        "win_rate": float(100 * (values - 1).mean()),
        "standard_error": float(100 * sem(values)) if len(values) > 1 else None,
        "discrete_win_rate": float(100 * ((values > 1.5).mean() + (values == 1.5).mean() / 2)),
    }


def _cells(verdicts: list[Verdict], keep_rewriter: bool) -> Iterator[tuple[dict[str, str], dict[str, list[Verdict]]]]:
    """What names each row, and its verdicts by test set: a row for each set and `pooled` for all of them."""
    if not keep_rewriter and len({row.rewriter for row in verdicts}) > 1:
        raise ValueError("verdicts on several rewriters; pass those of one, or keep_rewriter=True")
    keys = Counter((row.test_set, row.id, row.rewriter, row.answer_model, row.judge) for row in verdicts)
    if twice := [key for key, count in keys.items() if count > 1]:
        raise ValueError(f"judged more than once: {', '.join(twice[0])} ({len(twice)} in all); judge each answer once")
    groups: dict[tuple[str, ...], dict[str, list[Verdict]]] = {}
    for row in verdicts:
        group = groups.setdefault((row.answer_model, row.judge, row.rewriter), {})
        group.setdefault(row.test_set, []).append(row)
    for (answer_model, judge, rewriter), sets in groups.items():
        names = {"answer_model": answer_model, "judge": judge} | ({"rewriter": rewriter} if keep_rewriter else {})
        ordered = {test_set: sets[test_set] for test_set in sorted(sets, key=_set_order)}
        for test_set, rows in ordered.items():
            yield {"test_set": test_set, **names}, {test_set: rows}
        yield {"test_set": "pooled", **names}, ordered  # in a fixed order: the bootstrap draws set after set


def _row(names: dict[str, str], sets: dict[str, list[Verdict]]) -> dict:
    by_set = {test_set: Counter(row.verdict for row in rows) for test_set, rows in sets.items()}
    pooled = sum(by_set.values(), Counter())
    interval = pooled_net_win(by_set) if names["test_set"] == "pooled" else net_win(pooled)
    numbers = dict(zip(("net_win", "ci_low", "ci_high"), interval, strict=True))
    return {**names, "n": pooled.total(), "counts": {letter: pooled[letter] for letter in LETTERS}, **numbers}


def _stratified(values: Iterable[float], strata: list[list[int]], resamples: int, seed: int) -> Interval:
    """Mean over all strata and its percentile interval; each stratum counts how often each of `values` occurs."""
    import numpy as np

    values, sizes = np.asarray(values, dtype=float), [sum(counts) for counts in strata]
    if not (n := sum(sizes)):
        raise ValueError("no verdicts to count; run notebook 05 first")
    pooled = np.sum(strata, axis=0)
    mean = float(pooled @ values) / n
    if len(set(values[pooled > 0])) == 1:
        return mean, *exact_interval(mean, n)
    random, sums = np.random.default_rng(seed), np.zeros(resamples)
    for counts, size in zip(strata, sizes, strict=True):
        sums += random.multinomial(size, np.asarray(counts) / size, size=resamples) @ values
    low, high = np.quantile(sums / n, [TAIL, 1 - TAIL])
    return mean, float(low), float(high)


def _on_unit_scale(name: str, net: Interval) -> dict[str, float]:
    """A net win and its interval, -1 to 1, as a score from 0 to 1 under this name."""
    return {name + ending: (1 + value) / 2 for ending, value in zip(("", "_low", "_high"), net, strict=True)}


def exact_interval(value: float, n: int) -> tuple[float, float]:
    """95 % interval of the net win if every question gave `value`: the others' true share is below 1 - TAIL^(1/n)."""
    others = 1 - TAIL ** (1 / n)
    return max(-1.0, value - others * (1 + abs(value))), min(1.0, value + others * (1 + abs(value)))


def _total(counts: dict[str, int]) -> int:
    if unknown := counts.keys() - set(LETTERS):
        raise ValueError(f"unknown verdicts {sorted(unknown)}; the letters are {', '.join(LETTERS)}")
    if not (n := sum(counts.values())):
        raise ValueError("no verdicts to count; run notebook 05 first")
    return n


def _set_order(test_set: str) -> int:
    return list(TEST_SETS).index(test_set) if test_set in TEST_SETS else len(TEST_SETS)


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None
