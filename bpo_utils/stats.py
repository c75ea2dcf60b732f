"""Win rates with intervals, how steady and how even-handed a judge is, and how far two judges agree.

Letters are the course's: A original better, B optimized better, C tie, invalid. The net win is (B - A) / n, the paper's
delta win rate on one test set as a fraction. Invalid verdicts stay in n and count for neither side. Questions are the
units: the two orders of one question are never two observations (Miller 2024, arXiv 2411.00640).
"""

from collections import Counter
from collections.abc import Iterable

from bpo_utils.records import TEST_SETS, Answer, Verdict

LETTERS = ("A", "B", "C", "invalid")
TAIL = 0.025  # each side of a 95 % interval


def net_win(counts: dict[str, int]) -> tuple[float, float, float]:
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
        return net, *_exact_interval(net, n)
    half = t.isf(TAIL, n - 1) * (((wins + losses) / n - net**2) / (n - 1)) ** 0.5
    return net, max(-1.0, float(net - half)), min(1.0, float(net + half))


def pooled_net_win(
    counts_by_set: dict[str, dict[str, int]], resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Net win over all questions of all test sets and its 95 % percentile interval, as fractions.

    The bootstrap is stratified: within each test set as many questions are drawn with replacement as it has, which for
    counts is one multinomial draw. Same seed, same interval. Raises ValueError for no questions or an unknown letter.
    """
    import numpy as np

    n = sum(_total(counts) for counts in counts_by_set.values())
    pooled = sum((Counter(counts) for counts in counts_by_set.values()), Counter())
    net = (pooled["B"] - pooled["A"]) / n
    if max(pooled["A"], pooled["B"], pooled["C"] + pooled["invalid"]) == n:
        return net, *_exact_interval(net, n)
    random, margins = np.random.default_rng(seed), np.zeros(resamples)
    for counts in counts_by_set.values():
        size = _total(counts)
        drawn = random.multinomial(size, [counts.get(letter, 0) / size for letter in LETTERS], size=resamples)
        margins += drawn[:, LETTERS.index("B")] - drawn[:, LETTERS.index("A")]
    low, high = np.quantile(margins / n, [TAIL, 1 - TAIL])
    return net, float(low), float(high)


def summarise(verdicts: list[Verdict], keep_rewriter: bool = False) -> list[dict]:
    """Rows of results.json: for each answer model and judge one row per test set and one `pooled` row.

    Each row is {test_set, answer_model, judge, n, counts, net_win, ci_low, ci_high}, with `rewriter` after `judge` if
    `keep_rewriter`. Raises ValueError if a question was judged twice or several rewriters would be mixed in one row.
    """
    if not keep_rewriter and len({row.rewriter for row in verdicts}) > 1:
        raise ValueError("verdicts on several rewriters; pass those of one, or keep_rewriter=True")
    _check(verdicts)
    groups: dict[tuple[str, ...], dict[str, Counter]] = {}
    for row in verdicts:
        group = groups.setdefault((row.answer_model, row.judge, row.rewriter), {})
        group.setdefault(row.test_set, Counter())[row.verdict] += 1
    rows = []
    for (answer_model, judge, rewriter), sets in groups.items():
        names = {"answer_model": answer_model, "judge": judge} | ({"rewriter": rewriter} if keep_rewriter else {})
        for test_set in sorted(sets, key=_set_order):
            rows.append(_row(test_set, names, sets[test_set], net_win(sets[test_set])))
        rows.append(_row("pooled", names, sum(sets.values(), Counter()), pooled_net_win(sets)))
    return rows


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
    return [
        {"answer_model": model, "judge": judge, "test_sets": len(values), "delta_wr": sum(values) / len(values)}
        for (model, judge), values in nets.items()
    ]


def flip_rate(verdicts: list[Verdict]) -> float | None:
    """Share of the questions whose letter changed with the order. None if no question has both letters valid."""
    valid = [row for row in verdicts if "invalid" not in (row.original_first, row.optimized_first)]
    return _mean(row.original_first != row.optimized_first for row in valid)


def first_slot_rate(verdicts: list[Verdict]) -> float | None:
    """Share of the judgments naming a winner that named the answer shown first; 0.5 is even-handed. None if none."""
    first = [row.original_first == "A" for row in verdicts if row.original_first in ("A", "B")]
    second = [row.optimized_first == "B" for row in verdicts if row.optimized_first in ("A", "B")]
    return _mean(first + second)


def tie_rates(verdicts: list[Verdict]) -> list[dict]:
    """Ties per answer model and judge over all test sets: {answer_model, judge, n, tie_rate}, a fraction of all n."""
    groups: dict[tuple[str, str], list[bool]] = {}
    for row in verdicts:
        groups.setdefault((row.answer_model, row.judge), []).append(row.verdict == "C")
    return [
        {"answer_model": model, "judge": judge, "n": len(ties), "tie_rate": _mean(ties)}
        for (model, judge), ties in groups.items()
    ]


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
    rates = {
        "tie_stronger": _mean(ties[stronger][question] for question in shared),
        "tie_weaker": _mean(ties[weaker][question] for question in shared),
    }
    return {"n": len(shared), **rates, "difference": difference, "ci_low": low, "ci_high": high}


def longer_wins(verdicts: list[Verdict], answers: list[Answer]) -> list[dict]:
    """How often each judge's winner was the longer answer, in characters: {judge, decided, longer_wins}, a fraction.

    Ties, invalid verdicts and pairs of equal length are left out. Always picking the longer answer agrees with people
    in 62 % of AlpacaEval's comparisons, so a high figure is no proof of reading.
    """
    length = {(row.test_set, row.id, row.side, row.model): len(row.text) for row in answers}
    wins: dict[str, list[bool]] = {}
    for row in verdicts:
        sides = [length[row.test_set, row.id, side, row.answer_model] for side in ("original", row.rewriter)]
        decided = wins.setdefault(row.judge, [])
        if row.verdict in ("A", "B") and sides[0] != sides[1]:
            decided.append((row.verdict == "B") == (sides[1] > sides[0]))
    return [{"judge": name, "decided": len(part), "longer_wins": _mean(part)} for name, part in wins.items()]


def kappa(verdicts: list[Verdict], judge_a: str, judge_b: str) -> dict:
    """Agreement of two judges on the answers that both judged: {n, agreement, kappa} (Cohen 1960).

    `agreement` is the raw share of equal verdicts, `kappa` corrects it for chance; None where chance alone would agree
    always, for instance if all are ties. Invalid is a category of its own. Raises ValueError if none is shared.
    """
    letters: dict[str, dict[tuple, str]] = {judge_a: {}, judge_b: {}}
    for row in verdicts:
        if row.judge in letters:
            letters[row.judge][row.test_set, row.id, row.rewriter, row.answer_model] = row.verdict
    first, second = letters[judge_a], letters[judge_b]
    shared = first.keys() & second.keys()
    if not shared:
        raise ValueError(f"no answers judged by both {judge_a} and {judge_b}")
    agreement = _mean(first[key] == second[key] for key in shared)
    shares = [Counter(one[key] for key in shared) for one in (first, second)]
    chance = sum(shares[0][letter] * shares[1][letter] for letter in LETTERS) / len(shared) ** 2
    return {
        "n": len(shared),
        "agreement": agreement,
        "kappa": (agreement - chance) / (1 - chance) if chance < 1 else None,
    }


def _row(test_set: str, names: dict[str, str], counts: Counter, interval: tuple[float, float, float]) -> dict:
    filled = {letter: counts[letter] for letter in LETTERS}
    numbers = dict(zip(("net_win", "ci_low", "ci_high"), interval, strict=True))
    return {"test_set": test_set, **names, "n": sum(filled.values()), "counts": filled, **numbers}


def _exact_interval(value: float, n: int) -> tuple[float, float]:
    """Interval of the net win if every question gave `value`: the others' true share is below 1 - TAIL^(1/n)."""
    others = 1 - TAIL ** (1 / n)
    return max(-1.0, value - others * (1 + abs(value))), min(1.0, value + others * (1 + abs(value)))


def _total(counts: dict[str, int]) -> int:
    if unknown := counts.keys() - set(LETTERS):
        raise ValueError(f"unknown verdicts {sorted(unknown)}; the letters are {', '.join(LETTERS)}")
    if not (n := sum(counts.values())):
        raise ValueError("no verdicts to count; run notebook 05 first")
    return n


def _check(verdicts: list[Verdict]) -> None:
    """Two verdicts of one judge on the same answer would count one question twice."""
    keys = Counter((row.test_set, row.id, row.rewriter, row.answer_model, row.judge) for row in verdicts)
    if twice := [key for key, count in keys.items() if count > 1]:
        raise ValueError(f"judged more than once: {', '.join(twice[0])} ({len(twice)} in all); judge each answer once")


def _set_order(test_set: str) -> int:
    return list(TEST_SETS).index(test_set) if test_set in TEST_SETS else len(TEST_SETS)


def _mean(values: Iterable[bool]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None
