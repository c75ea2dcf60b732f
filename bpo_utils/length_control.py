"""Win rate at equal length: AlpacaEval's length control in its minimal form (Dubois et al. 2024, arXiv 2404.04475).

Per question, y is the score of the optimized prompt (1, 0.5, 0) and d the characters of the answer to the original
prompt less those of the answer to the optimized one. The model is logit P(y) = phi * tanh(d / sd(d)) + theta; the
length-controlled win score is P at d = 0, the logistic function of theta. A negative phi: longer answers win.

Read it with care. Longer answers may be the very way in which an optimized prompt helps (it asks for detail), and this
takes out what goes by way of length. It answers "and at equal length?", not "how good really?"; report both.

The same as `length_controlled_minimal` of the package alpaca-eval 0.6.6: the formula, the sign of d, the sample
standard deviation (n - 1), ties as 0.5, the rule for extreme changes. Not the same: how the two coefficients are found.
`length_control` takes maximum likelihood, for results of your own, with an interval; `alpaca_eval_rate` is the
package's estimator, for rates to set beside those it computed. The package fits by scikit-learn's liblinear with an L1
penalty, whose strength five-fold cross-validation picks from ten, and stops at tolerance 1e-4. On AlpacaEval's 805
questions that moves the rate by 0.01 to 0.21 points, and the seed of the solver alone by up to 0.07. Told to fit
without penalty and to convergence, the package gives our rates to 1e-5 points (tests/test_length_control.py). The
penalty is no detail where a set is small and the rate near one half: of 60 simulated sets of 80 questions with a true
rate of 57 %, the package gave exactly 50 % for 24. Its standard error is that of equal predictions, so 0; the interval
here is a bootstrap of the whole fit.
"""

import warnings
from collections.abc import Sequence
from typing import Any

from packaging.version import Version

from bpo_utils.records import TEST_SETS, Answer, Verdict

TAIL = 0.025  # each side of a 95 % interval
LEAST = 10  # questions; two coefficients from fewer say nothing
LOOSE = 10.0  # standard error of a coefficient, in logits, above which lengths all but separate wins from losses
POINTS = {"A": 0.0, "B": 1.0}  # a tie, and a verdict that is unreadable or was refused, is worth half
STRENGTHS = (-4, 4, 10)  # exponents of the first and last C of the package, 1 / penalty, and how many
FOLDS, SEED = 5, 123  # of the package's cross-validation and solver
STEPS = 30  # of Newton's method in the bootstrap; it begins at the estimate and needs about 5


def table(verdicts: list[Verdict], answers: list[Answer], resamples: int = 1000, seed: int = 0) -> list[dict]:
    """A row for each answer model, judge and test set, and one `pooled` row over all sets.

    Each row is {test_set, answer_model, judge} with what `length_control` returns, and lc_left_out, the questions that
    had no answer to measure; so lc_n + lc_left_out is the n of `stats.panel`. The pooled bootstrap draws within each
    test set. Raises ValueError for verdicts on several rewriters or without their answers.
    """
    if len({row.rewriter for row in verdicts}) > 1:
        raise ValueError("verdicts on several rewriters; pass those of one")
    lengths = {(row.test_set, row.id, row.side, row.model): len(row.text) for row in answers}
    groups: dict[tuple[str, str], dict[str, list[Verdict]]] = {}
    for row in verdicts:
        groups.setdefault((row.answer_model, row.judge), {}).setdefault(row.test_set, []).append(row)
    rows = []
    for (answer_model, judge), sets in groups.items():
        known = sorted(sets, key=lambda name: list(TEST_SETS).index(name) if name in TEST_SETS else len(TEST_SETS))
        for test_set in [*known, "pooled"]:
            chosen = [row for name in known if test_set in (name, "pooled") for row in sets[name]]
            used = [row for row in chosen if row.how != "no_answer"]
            original, optimized = zip(*(_lengths(row, lengths) for row in used), strict=True) if used else ((), ())
            scores = [POINTS.get(row.verdict, 0.5) for row in used]
            strata = [row.test_set for row in used]
            found = length_control(scores, original, optimized, strata, resamples, seed)
            names = {"test_set": test_set, "answer_model": answer_model, "judge": judge}
            rows.append(names | found | {"lc_left_out": len(chosen) - len(used)})
    return rows


def length_control(
    scores: Sequence[float],
    original_lengths: Sequence[int],
    optimized_lengths: Sequence[int],
    strata: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Length-controlled win score of questions scored 0 to 1, with a 95 % percentile bootstrap interval.

    Returns {lc_n, lc_win_score, lc_low, lc_high, lc_raw, lc_phi, lc_theta, lc_longer, lc_note}: fractions, the two
    coefficients in logits, the plain mean score of the same questions (lc_raw) and the share of them whose optimized
    answer is longer (lc_longer; near 0 or 1, equal length is outside what was seen). What cannot be found is None, and
    lc_note says why; it also says so where the change is extreme by AlpacaEval's rule, otherwise it is empty.
    Questions are drawn with replacement, within each of `strata`. Raises ValueError for unlike or impossible values.
    """
    import numpy as np

    y, d = _checked(scores, original_lengths, optimized_lengths)
    found = {"lc_n": len(y)} | dict.fromkeys(["lc_win_score", "lc_low", "lc_high"])
    found["lc_raw"] = float(y.mean()) if len(y) else None
    found |= {"lc_phi": None, "lc_theta": None, "lc_longer": float((d < 0).mean()) if len(y) else None}
    if note := _unfit(y, d):
        return found | {"lc_note": note}
    (phi, theta), errors = fit(y, d)
    if not max(errors) < LOOSE:
        return found | {"lc_note": "the difference in length all but separates wins from losses, no finite estimate"}
    rates = resampled(y, d, (phi, theta), strata or [""] * len(y), resamples, seed)
    rate, usable = float(1 / (1 + np.exp(-theta))), rates[np.isfinite(rates)]
    found |= {"lc_win_score": rate, "lc_phi": phi, "lc_theta": theta, "lc_note": _extreme(found["lc_raw"], rate)}
    if len(usable) < 0.95 * resamples:
        lost = f"no estimate in {resamples - len(usable)} of {resamples} resamples, so no interval"
        return found | {"lc_note": "; ".join(filter(None, [found["lc_note"], lost]))}
    low, high = np.quantile(usable, [TAIL, 1 - TAIL])
    return found | {"lc_low": float(low), "lc_high": float(high)}


def alpaca_eval_rate(
    scores: Sequence[float], original_lengths: Sequence[int], optimized_lengths: Sequence[int]
) -> float:
    """The rate at equal length, a fraction, by the estimator of alpaca-eval; the module says when to use which.

    The order of the questions matters: it decides the folds. Raises ValueError without scikit-learn 1.8 or later, for
    unlike or impossible values, for too few questions, and for scores or differences that are all the same.
    """
    import numpy as np
    from scipy.special import expit

    try:
        import sklearn
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GroupKFold

        if Version(sklearn.__version__) < Version("1.8"):  # which would take the penalty below for L2
            raise ImportError(f"scikit-learn {sklearn.__version__} is too old")
    except ImportError as error:
        raise ValueError("needs scikit-learn 1.8 or later: pip install scikit-learn --upgrade") from error
    y, d = _checked(scores, original_lengths, optimized_lengths)
    if note := _unfit(y, d):
        raise ValueError(note)
    x, strengths = design(d), np.logspace(*STRENGTHS)

    def coefficients(rows: Any, strength: float, random: Any) -> Any:
        """Each question counts twice: as a win of weight y and as a loss of weight 1 - y."""
        model = LogisticRegression(C=strength, l1_ratio=1, solver="liblinear", fit_intercept=False, random_state=random)
        wins = np.repeat([1, 0], len(rows))
        return model.fit(np.tile(x[rows], (2, 1)), wins, np.concatenate([y[rows], 1 - y[rows]])).coef_[0]

    loss = np.zeros(len(strengths))
    for train, held_out in GroupKFold(FOLDS).split(x, groups=np.arange(len(y))):
        random = np.random.RandomState(SEED)  # one for all strengths in turn, as LogisticRegressionCV has it
        logits = np.array([x[held_out] @ coefficients(train, strength, random) for strength in strengths])
        loss += (np.logaddexp(0, logits) - y[held_out] * logits).mean(axis=1)
    return float(expit(coefficients(np.arange(len(y)), strengths[loss.argmin()], SEED)[1]))


def design(d: Any) -> Any:
    """The two columns of the model, questions x 2: tanh of the standardised difference in length, and ones."""
    import numpy as np

    return np.column_stack([np.tanh(d / np.std(d, ddof=1)), np.ones(len(d))])


def fit(y: Any, d: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """Maximum likelihood: (phi, theta) and their standard errors, in logits; infinite errors if it did not converge."""
    import statsmodels.api as sm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of separation, which the errors tell as well
        result = sm.GLM(y, design(d), family=sm.families.Binomial()).fit()
    errors = map(float, result.bse) if result.converged else (float("inf"),) * 2
    return tuple(map(float, result.params)), tuple(errors)


def resampled(y: Any, d: Any, start: tuple[float, float], strata: Sequence[str], resamples: int, seed: int) -> Any:
    """The length-controlled rate in each bootstrap resample, sd(d) taken anew; NaN where there is no finite estimate.

    Newton's method on all resamples at once, since 1,000 calls of `fit` take seconds for each row of a table; the tests
    hold it against `fit`.
    """
    import numpy as np
    from scipy.special import expit

    random, counts, strata = np.random.default_rng(seed), np.zeros((resamples, len(y))), np.asarray(strata)
    for stratum in dict.fromkeys(strata):
        places = np.flatnonzero(strata == stratum)
        counts[:, places] = random.multinomial(len(places), [1 / len(places)] * len(places), size=resamples)
    centred = d - d.mean()
    variance = (counts @ centred**2 - (counts @ centred) ** 2 / len(y)) / (len(y) - 1)
    with np.errstate(all="ignore"):  # a resample without an estimate ends as NaN
        x = np.tanh(d / np.sqrt(variance)[:, None])
        phi, theta = (np.full(resamples, value) for value in start)
        for _ in range(STEPS):
            p = expit(phi[:, None] * x + theta[:, None])
            slope, curve = counts * (y - p), counts * p * (1 - p)
            g, h, cross = slope.sum(1), curve.sum(1), (curve * x).sum(1)
            g_x, h_x = (slope * x).sum(1), (curve * x * x).sum(1)
            determinant = h * h_x - cross**2
            step_phi, step_theta = (h * g_x - cross * g) / determinant, (h_x * g - cross * g_x) / determinant
            phi, theta = phi + step_phi, theta + step_theta
            if (settled := (np.abs(step_phi) < 1e-6) & (np.abs(step_theta) < 1e-6)).all():
                break
    return np.where(settled, expit(theta), np.nan)


def _checked(scores: Sequence[float], original: Sequence[int], optimized: Sequence[int]) -> tuple[Any, Any]:
    """Scores and differences in length as arrays; ValueError for unlike or impossible values."""
    import numpy as np

    y, d = np.asarray(scores, dtype=float), np.subtract(original, optimized).astype(float)
    if y.shape != d.shape or not ((y >= 0) & (y <= 1)).all():
        raise ValueError(f"{y.size} scores and {d.size} pairs of lengths; needs as many of each, scores from 0 to 1")
    return y, d


def _unfit(y: Any, d: Any) -> str:
    """Why no estimate is possible; empty if one is."""
    if len(y) < LEAST:
        return f"only {len(y)} questions, needs {LEAST}"
    if len(set(y)) == 1:
        return f"all {len(y)} questions have the score {y[0]:g}"
    if len(set(d)) == 1:
        return f"all {len(y)} pairs differ by the same {abs(d[0]):g} characters"
    return ""


def _extreme(raw: float, controlled: float) -> str:
    """AlpacaEval's sign of a failed fit: a change above 10 points and a quarter of the range that was left."""
    change, left = controlled - raw, 1 - raw if controlled > raw else raw
    if abs(change) > max(0.1, left / 4):
        return f"length control moves the win score by {100 * change:+.0f} points: read it with doubt"
    return ""


def _lengths(row: Verdict, lengths: dict[tuple[str, str, str, str], int]) -> tuple[int, int]:
    keys = [(row.test_set, row.id, side, row.answer_model) for side in ("original", row.rewriter)]
    if missing := [key for key in keys if key not in lengths]:
        raise ValueError(f"{', '.join(missing[0])}: judged, but there is no such answer; run notebook 05 again")
    return lengths[keys[0]], lengths[keys[1]]
