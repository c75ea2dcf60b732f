"""How steady and how even-handed a judge is, and how far judges agree with each other and with people.

Only pairs that were put to a judge count here (`how` is judged): two equal answers are a tie without a call, and a pair
without an answer is refused without one, so neither says anything of a judge. How often a judge agrees with people is
to be read beside what a rule without reading gets: always picking the longer answer (`longest`) agrees with people in
62 % of AlpacaEval's comparisons (its README, table of evaluators).
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from bpo_utils.records import TEST_SETS, Answer, Verdict

TAIL = 0.025  # each side of a 95 % interval
# what a judge may answer; unreadable or refused verdicts are categories only where they occur
LETTERS = ("A", "B", "C")
LONGEST = "longest"  # the name of the rule in tables of judges
LEAST = 20  # labels for an interval; the normal approximation needs some
Key = tuple[str, str, str, str]  # test set, id, rewriter, answer model: one pair of answers


def flip_rate(verdicts: list[Verdict]) -> float | None:
    """Share of the questions whose letter changed with the order. None if no question has both letters valid."""
    valid = [row for row in _judged(verdicts) if {row.original_first, row.optimized_first} <= set(LETTERS)]
    return _mean(row.original_first != row.optimized_first for row in valid)


def first_slot_rate(verdicts: list[Verdict]) -> float | None:
    """Share of the judgments naming a winner that named the answer shown first; 0.5 is even-handed. None if none."""
    judged = _judged(verdicts)
    first = [row.original_first == "A" for row in judged if row.original_first in ("A", "B")]
    second = [row.optimized_first == "B" for row in judged if row.optimized_first in ("A", "B")]
    return _mean(first + second)


def longer_wins(verdicts: list[Verdict], answers: list[Answer]) -> list[dict]:
    """How often each judge's winner was the longer answer, in characters: {judge, decided, longer_wins}, a fraction.

    Ties, invalid verdicts and pairs of equal length are left out. Raises ValueError for a verdict without its answers.
    """
    longer = longest(verdicts, answers)
    wins: dict[str, list[bool]] = {row.judge: [] for row in verdicts}
    for row in _judged(verdicts):
        if row.verdict in ("A", "B") and longer[_key(row)] != "C":
            wins[row.judge].append(row.verdict == longer[_key(row)])
    return [{"judge": name, "decided": len(part), "longer_wins": _mean(part)} for name, part in wins.items()]


def longest(verdicts: list[Verdict], answers: list[Answer]) -> dict[Key, str]:
    """What the rule "the longer answer is better" says of each judged pair: A, B, or C for equal lengths.

    Keys are (test set, id, rewriter, answer model). Raises ValueError for a verdict without its answers.
    """
    lengths = {(row.test_set, row.id, row.side, row.model): len(row.text) for row in answers}
    letters = {}
    for row in _judged(verdicts):
        sides = [(row.test_set, row.id, side, row.answer_model) for side in ("original", row.rewriter)]
        if missing := [side for side in sides if side not in lengths]:
            raise ValueError(f"{', '.join(missing[0])}: judged, but there is no such answer; run notebook 05 again")
        original, optimized = lengths[sides[0]], lengths[sides[1]]
        letters[_key(row)] = "C" if original == optimized else "B" if optimized > original else "A"
    return letters


def habits(verdicts: list[Verdict], answers: list[Answer]) -> list[dict]:
    """How each judge went about it: a row for each answer model, judge and test set, and one `pooled` row over all.

    Each row is {test_set, answer_model, judge, judged, flip_rate, first_slot_rate, tie_rate, longer_wins,
    longest_agreement}: `judged` is the number of pairs put to the judge and all rates are fractions of those (ties, and
    agreement in all letters with `longest`) or of the part that each function names. A rate without cases is None.
    Raises ValueError for verdicts on several rewriters or without their answers.
    """
    if len({row.rewriter for row in verdicts}) > 1:
        raise ValueError("verdicts on several rewriters; pass those of one")
    longer = longest(verdicts, answers)
    order = list(dict.fromkeys([*TEST_SETS, *(row.test_set for row in verdicts), "pooled"]))
    groups: dict[tuple[str, str], dict[str, list[Verdict]]] = {}
    for row in verdicts:
        sets = groups.setdefault((row.answer_model, row.judge), {})
        for name in (row.test_set, "pooled"):
            sets.setdefault(name, []).append(row)
    rows = []
    for (answer_model, judge), sets in groups.items():
        for test_set in sorted(sets, key=order.index):
            judged = _judged(sets[test_set])
            row = {"test_set": test_set, "answer_model": answer_model, "judge": judge, "judged": len(judged)}
            row |= {"flip_rate": flip_rate(judged), "first_slot_rate": first_slot_rate(judged)}
            row |= {"tie_rate": _mean(one.verdict == "C" for one in judged)}
            decided = [one for one in judged if one.verdict in ("A", "B") and longer[_key(one)] != "C"]
            row["longer_wins"] = _mean(one.verdict == longer[_key(one)] for one in decided)
            rows.append(row | {"longest_agreement": _mean(one.verdict == longer[_key(one)] for one in judged)})
    return rows


def kappa(verdicts: list[Verdict], judge_a: str, judge_b: str, resamples: int = 1000, seed: int = 0) -> dict:
    """Agreement of two judges on the pairs that both judged.

    Returns {n, agreement, kappa, kappa_low, kappa_high, ac1, ac1_low, ac1_high} as `compare`. Raises ValueError if the
    two share no pair.
    """
    opinions = _opinions(verdicts)
    first, second = opinions.get(judge_a, {}), opinions.get(judge_b, {})
    shared = [key for key in first if key in second]
    if not shared:
        raise ValueError(f"no answers judged by both {judge_a} and {judge_b}")
    return compare([(first[key], second[key]) for key in shared], [key[:2] for key in shared], resamples, seed)


def compare(pairs: list[tuple[str, str]], questions: list[Any], resamples: int = 1000, seed: int = 0) -> dict:
    """Agreement of two raters; `pairs` holds the letters of both, `questions` what each pair of answers belongs to.

    Returns {n, agreement, kappa, kappa_low, kappa_high, ac1, ac1_low, ac1_high}. `agreement` is the raw share of equal
    letters; `kappa` corrects it for chance by each rater's own habits (Cohen 1960), None where chance alone would agree
    always, for instance if all are ties; `ac1` (`gwet_ac1`) keeps its head where one letter dominates. The intervals
    are 95 % percentile ones from drawing questions with replacement, so that one question under several answer models
    is one observation; None if fewer than 95 % of the resamples give a value, or if all give the same.
    """
    import numpy as np

    letters = [*LETTERS, *sorted({letter for pair in pairs for letter in pair} - set(LETTERS))]
    units = list(dict.fromkeys(questions))
    place, row = {letter: at for at, letter in enumerate(letters)}, {unit: at for at, unit in enumerate(units)}
    cells = np.zeros((len(units), len(letters), len(letters)), dtype=int)
    for (one, other), question in zip(pairs, questions, strict=True):
        cells[row[question], place[one], place[other]] += 1
    together = cells.sum(axis=0)
    found = {"n": len(pairs), "agreement": float(np.trace(together) / len(pairs))}
    draws = np.random.default_rng(seed).multinomial(len(units), [1 / len(units)] * len(units), size=resamples)
    tables = np.tensordot(draws, cells, axes=1)
    for name, measure in (("kappa", cohens_kappa), ("ac1", gwet_ac1)):
        low, high = _quantiles([measure(table) for table in tables])
        found |= {name: measure(together), f"{name}_low": low, f"{name}_high": high}
    return found


def cohens_kappa(table: Any) -> float | None:
    """Cohen's kappa of a square table of counts, by statsmodels; None if both raters know one and the same letter."""
    from statsmodels.stats.inter_rater import cohens_kappa as of_statsmodels

    used = table.sum(axis=0) + table.sum(axis=1)
    return float(of_statsmodels(table, return_results=False)) if (used > 0).sum() > 1 else None


def gwet_ac1(table: Any) -> float:
    """Gwet's AC1 of a square table of counts (Gwet 2008, doi 10.1348/000711006X126600): agreement beyond chance.

    Chance is the sum over the letters of s (1 - s) / (letters - 1), s being the mean of both raters' shares. This is
    small where one letter dominates, where chance of kappa is large and kappa collapses. statsmodels has no AC1.
    """
    shares = table / table.sum()
    mean = (shares.sum(axis=0) + shares.sum(axis=1)) / 2
    chance = (mean * (1 - mean)).sum() / (len(table) - 1)
    return float((shares.trace() - chance) / (1 - chance))


def human_agreement(labels: list[dict], verdicts: list[Verdict], answers: list[Answer] | None = None) -> list[dict]:
    """How far each judge agrees with people, and its net win corrected by them. With `answers`, also for `longest`.

    `labels`: {test_set, id, rewriter, answer_model, label}, label A, B or C in the course's letters. Rows: {judge, ...
    `compare`, agreement_decided, decided, ... `corrected_net_win`}; agreement_decided is over the `decided` pairs on
    which both name a winner. Labels of pairs that a judge was not asked about are left out. Raises ValueError for an
    unknown letter, a pair labelled twice, several rewriters, or labels that no judge shares.
    """
    if len({row.rewriter for row in verdicts}) > 1:
        raise ValueError("verdicts on several rewriters; pass those of one")
    human, opinions = _labels(labels), _opinions(verdicts)
    total = {name: sum(row.judge == name for row in verdicts) for name in opinions}
    if answers is not None:
        opinions[LONGEST], total[LONGEST] = longest(verdicts, answers), len({_key(row) for row in verdicts})
    rows = []
    for name, letters in opinions.items():
        if shared := [key for key in letters if key in human]:
            pairs = [(human[key], letters[key]) for key in shared]
            decided = [one == other for one, other in pairs if {one, other} <= {"A", "B"}]
            row = {"judge": name, **compare(pairs, [key[:2] for key in shared])}
            row |= {"agreement_decided": _mean(decided), "decided": len(decided)}
            rows.append(row | corrected_net_win(human, letters, total[name]))
    if not rows:
        raise ValueError(f"none of {len(labels)} labels belongs to a judged pair; check test_set, id and answer_model")
    return rows


def corrected_net_win(human: dict[Key, str], letters: dict[Key, str], total: int) -> dict[str, float | None]:
    """Prediction-powered net win: the judge's on all pairs, corrected by how people differ from it where they labelled.

    `letters` are the judge's on all judged pairs; `total` also counts those that were not judged, which stay in n and
    give 0. Returns fractions: judge_net_win; human_net_win from the labelled pairs only with human_low and human_high
    (t interval); ppi_net_win = mean(judge) + mean(human - judge) with ppi_low and ppi_high, normal with variance
    var(judge) / N + var(human - judge) / n (Angelopoulos et al. 2023, arXiv 2301.09633). The labelled pairs must be a
    random draw within each test set and answer model; a label stands for as many pairs as its share of that cell, since
    `labelling.page` draws evenly over cells of unequal size. No interval (None) below 20 labels, nor where these never
    vary. Raises ValueError if no judged pair is labelled.
    """
    import numpy as np
    from scipy.stats import norm, t

    value, cells = {"A": -1, "B": 1}, Counter((key[0], key[3]) for key in letters)
    if not (n := len(shared := [key for key in letters if key in human])):
        raise ValueError(f"none of {len(human)} labels belongs to one of {len(letters)} judged pairs")
    drawn = Counter((key[0], key[3]) for key in shared)
    weights = np.array([cells[key[0], key[3]] / drawn[key[0], key[3]] for key in shared])
    judge, people, same = (
        len(letters) / total * np.array([value.get(letter, 0) for letter in part], dtype=float)
        for part in (letters.values(), [human[key] for key in shared], [letters[key] for key in shared])
    )
    (human_net, human_variance), (difference, variance) = (_weighted(x, weights) for x in (people, people - same))
    net, enough = judge.mean() + difference, n >= LEAST
    found = {"judge_net_win": judge.mean(), "human_net_win": human_net, "ppi_net_win": net}
    if enough and human_variance:
        half = t.isf(TAIL, n - 1) * human_variance**0.5
        found |= {"human_low": human_net - half, "human_high": human_net + half}
    if enough and variance:
        half = norm.isf(TAIL) * (judge.var(ddof=1) / len(judge) + variance) ** 0.5
        found |= {"ppi_low": net - half, "ppi_high": net + half}
    order = [f"{name}_{what}" for name in ("human", "ppi") for what in ("net_win", "low", "high")]
    return {name: float(np.clip(found[name], -1, 1)) if name in found else None for name in ("judge_net_win", *order)}


def shift(plain: list[Verdict], changed: list[Verdict]) -> dict:
    """What another way of judging (a hardened prompt, another style) does to one judge's verdicts on the same answers.

    Returns {n, changed, net_win_plain, net_win_changed, difference, ci_low, ci_high}: the share of verdicts that are
    not the same, and the paired difference of the net wins (changed less plain) with Student's 95 % interval over the
    answers, None where all differ alike. Pass one answer model's verdicts, so that answers are questions. Raises
    ValueError if no answer was judged both ways. Hardening is not free: one audit found no attack to block and a drift
    of 6.4 % from the hardening itself (analemma, FARS FA0074), so measure it before choosing it.
    """
    from scipy.stats import ttest_1samp

    before, after = ({_key(row): row.verdict for row in _judged(rows)} for rows in (plain, changed))
    shared = [key for key in before if key in after]
    if not shared:
        raise ValueError("no answer was judged both ways; judge the same answers in both")
    points = [[{"A": -1, "B": 1}.get(one[key], 0) for key in shared] for one in (before, after)]
    steps = [new - old for old, new in zip(*points, strict=True)]
    low = high = None
    if len(set(steps)) > 1:
        low, high = map(float, ttest_1samp(steps, 0).confidence_interval(1 - 2 * TAIL))
    n = len(shared)
    return {
        "n": n,
        "changed": sum(before[key] != after[key] for key in shared) / n,
        "net_win_plain": sum(points[0]) / n,
        "net_win_changed": sum(points[1]) / n,
        "difference": sum(steps) / n,
        "ci_low": low,
        "ci_high": high,
    }


def _labels(labels: list[dict]) -> dict[Key, str]:
    human: dict[Key, str] = {}
    for number, row in enumerate(labels, 1):
        if missing := {"test_set", "id", "rewriter", "answer_model", "label"} - row.keys():
            raise ValueError(f"label {number}: lacks {', '.join(sorted(missing))}; take the file that the page saved")
        key = (row["test_set"], row["id"], row["rewriter"], row["answer_model"])
        if row["label"] not in LETTERS:
            raise ValueError(f"label {number}, {', '.join(key)}: {row['label']!r}; needs one of {', '.join(LETTERS)}")
        if key in human:
            raise ValueError(f"label {number}, {', '.join(key)}: labelled twice; keep one label of each pair")
        human[key] = row["label"]
    return human


def _opinions(verdicts: list[Verdict]) -> dict[str, dict[Key, str]]:
    opinions: dict[str, dict[Key, str]] = {}
    for row in _judged(verdicts):
        opinions.setdefault(row.judge, {})[_key(row)] = row.verdict
    return opinions


def _judged(verdicts: list[Verdict]) -> list[Verdict]:
    return [row for row in verdicts if row.how == "judged"]


def _key(row: Verdict) -> Key:
    return row.test_set, row.id, row.rewriter, row.answer_model


def _quantiles(values: list[float | None]) -> tuple[float | None, float | None]:
    import numpy as np

    known = [value for value in values if value is not None]
    if len(known) < 0.95 * len(values) or len(set(known)) < 2:
        return None, None
    low, high = np.quantile(known, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _weighted(values: Any, weights: Any) -> tuple[float, float]:
    """Weighted mean and the variance of that mean (Hajek's; for equal weights the sample variance over n)."""
    n, mean = len(values), float((weights * values).sum() / weights.sum())
    return mean, float(((weights * (values - mean)) ** 2).sum() / weights.sum() ** 2 * n / max(n - 1, 1))


def _mean(values: Iterable[bool]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None
