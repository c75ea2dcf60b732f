"""Length control: on made rows with a known answer, and on AlpacaEval's real ones from the folder BPO_JUDGMENTS_DIR."""

import csv
import math
import os
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

from bpo_utils import length_control as control
from bpo_utils.records import Answer, Verdict

real = pytest.mark.skipif(
    not os.environ.get("BPO_JUDGMENTS_DIR"), reason="BPO_JUDGMENTS_DIR is not set: no real AlpacaEval preferences"
)
# Measured with alpaca-eval 0.6.6 (scikit-learn 1.7.2) on the same rows: get_length_controlled_winrate(...,
# glm_name="length_controlled_minimal") as it is; and the same call told to fit without penalty and to convergence,
# glm_info=GLM_INFO["length_controlled_minimal"] | {"kwargs": {"n_splits": 0, "C": 1e10, "tol": 1e-12, "max_iter":
# 1_000_000}}. Last: its verdict get_is_extreme_changes.
PACKAGE = {
    "gpt-3.5-turbo-1106": (37.773728433974604, 37.80301148455622, True),
    "gpt-3.5-turbo-1106_verbose": (35.82144731658077, 35.87576623297447, True),
    "gpt-3.5-turbo-1106_concise": (38.34321423925148, 38.556820436635064, True),
    "vicuna-13b": (14.084036613267582, 14.073527871977326, False),
    "claude-2": (36.78125854014985, 36.79433814002157, False),
}
# The rates of its fit_LogisticRegressionCV(..., is_ytrue_proba=True) on made_rows(n, theta). It picked the C 1e-4, 2.8,
# 0.36, 22, 0.36 and 1e4.
PACKAGE_MADE = {
    (10, 0.28): 0.5,
    (33, 0.05): 0.620396110480613,
    (80, 1.0): 0.7197538675818469,
    (81, 0.05): 0.41316400693353417,
    (400, 0.05): 0.5,
    (400, 1.0): 0.6586663378391485,
}
WITHOUT = "scikit-learn is not installed: pip install -e '.[test]'"


def real_rows(model):
    """Scores from 0 to 1, characters of the baseline and of the model, one number per question."""
    path = Path(os.environ["BPO_JUDGMENTS_DIR"]) / "alpaca_eval2" / f"{model}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lengths = [[int(row[side]) for row in rows] for side in ("baseline_chars", "model_chars")]
    return [float(row["preference"]) - 1 for row in rows], *lengths


def made_rows(n=400, theta=0.4, phi=-1.2, seed=3):
    """Longer answers win; at equal length the optimized prompt wins with the logistic function of theta."""
    random = np.random.default_rng(seed)
    original = random.integers(200, 3000, n)
    optimized = original + random.normal(400, 700, n).astype(int).clip(100 - original)
    d = original - optimized
    chance = 1 / (1 + np.exp(-(phi * np.tanh(d / d.std(ddof=1)) + theta)))
    scores = np.where(random.random(n) < 0.2, 0.5, random.random(n) < chance)
    return scores, original, optimized


@real
@pytest.mark.parametrize("model", PACKAGE)
def test_the_rate_of_the_package_fitted_to_convergence(model):
    default, converged, extreme = PACKAGE[model]
    found = control.length_control(*real_rows(model), resamples=2)
    assert found["lc_n"] == 805
    assert 100 * found["lc_win_score"] == pytest.approx(converged, abs=1e-5)
    assert abs(100 * found["lc_win_score"] - default) < 0.22  # its penalty and loose tolerance: see the docstring
    assert bool(found["lc_note"]) == extreme


@real
@pytest.mark.parametrize("model", PACKAGE)
def test_the_package_s_default_rate(model):
    pytest.importorskip("sklearn", reason=WITHOUT)
    assert 100 * control.alpaca_eval_rate(*real_rows(model)) == pytest.approx(PACKAGE[model][0], abs=1e-4)


@pytest.mark.parametrize("n, theta", PACKAGE_MADE)
def test_the_package_s_rate_on_made_rows(n, theta):
    pytest.importorskip("sklearn", reason=WITHOUT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rate = control.alpaca_eval_rate(*made_rows(n, theta))
    assert rate == pytest.approx(PACKAGE_MADE[n, theta], abs=1e-6)


def test_the_package_s_rate_leaves_the_settings_of_scikit_learn_alone():
    sklearn = pytest.importorskip("sklearn", reason=WITHOUT)
    before = sklearn.get_config()
    control.alpaca_eval_rate(*made_rows(40))
    assert sklearn.get_config() == before


@pytest.mark.parametrize("installed", [None, "1.7.2"])
def test_the_package_s_rate_without_scikit_learn_or_with_an_old_one(monkeypatch, installed):
    module = installed and types.SimpleNamespace(__version__=installed, LogisticRegression=None, GroupKFold=None)
    for name in ("sklearn", "sklearn.linear_model", "sklearn.model_selection"):
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        control.alpaca_eval_rate(*made_rows(40))


def test_the_package_s_rate_of_bad_values_is_an_error():
    pytest.importorskip("sklearn", reason=WITHOUT)
    with pytest.raises(ValueError, match="2 scores and 3 pairs"):
        control.alpaca_eval_rate([1, 0], [1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="only 3 questions"):
        control.alpaca_eval_rate([1, 0, 0.5], [5, 6, 7], [6, 9, 1])


def test_a_known_effect_is_found_and_its_sign_is_right():
    found = control.length_control(*made_rows(4000), resamples=200)
    assert (found["lc_phi"], found["lc_theta"]) == (pytest.approx(-1.0, abs=0.25), pytest.approx(0.3, abs=0.12))
    assert found["lc_low"] < found["lc_win_score"] < found["lc_raw"] and found["lc_win_score"] < found["lc_high"]
    assert found["lc_longer"] == pytest.approx(0.71, abs=0.03) and found["lc_note"] == ""
    scores, original, optimized = made_rows(4000)
    mirrored = control.length_control(1 - scores, optimized, original, resamples=2)
    assert mirrored["lc_win_score"] == pytest.approx(1 - found["lc_win_score"])
    assert mirrored["lc_phi"] == pytest.approx(found["lc_phi"])


def test_each_resample_is_a_whole_fit():
    """The resamples drawn again one by one, and fitted with statsmodels."""
    scores, original, optimized = made_rows(60)
    d, strata = (original - optimized).astype(float), np.array(["x"] * 20 + ["y"] * 40)
    rates = control.resampled(scores, d, control.fit(scores, d)[0], strata, 20, seed=7)
    random = np.random.default_rng(7)
    draws = np.concatenate([random.multinomial(n, [1 / n] * n, size=20) for n in (20, 40)], axis=1)
    for rate, draw in zip(rates, draws, strict=True):
        (_, theta), _ = control.fit(np.repeat(scores, draw), np.repeat(d, draw))
        assert rate == pytest.approx(1 / (1 + math.exp(-theta)), abs=1e-6)


def test_the_interval_is_as_wide_as_the_model_says():
    scores, original, optimized = made_rows(800)
    found = control.length_control(scores, original, optimized, resamples=2000)
    (_, theta), (_, error) = control.fit(scores, (original - optimized).astype(float))
    logit = [math.log(found[end] / (1 - found[end])) for end in ("lc_low", "lc_high")]
    assert logit[1] - logit[0] == pytest.approx(2 * 1.96 * error, rel=0.25)  # ties make the model's error too large
    assert sum(logit) / 2 == pytest.approx(theta, abs=0.03)
    again, other = (control.length_control(scores, original, optimized, resamples=50, seed=seed) for seed in (0, 1))
    assert again == control.length_control(scores, original, optimized, resamples=50) and again != other


@pytest.mark.parametrize(
    "scores, original, optimized, reason",
    [
        ([], [], [], "only 0 questions"),
        ([1, 0, 0.5], [5, 6, 7], [6, 9, 1], "only 3 questions"),
        ([1] * 30, range(30), range(0, 60, 2), "all 30 questions have the score 1"),
        ([1, 0] * 15, range(30), range(7, 37), "all 30 pairs differ by the same 7 characters"),
        ([0] * 15 + [1] * 15, [20] * 30, range(5, 35), "separates wins from losses"),
        ([0] * 29 + [1], [20] * 30, [19] * 29 + [30], "separates wins from losses"),
    ],
)
def test_what_cannot_be_found_is_none_and_says_why(scores, original, optimized, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = control.length_control(scores, original, optimized, resamples=50)
    assert (found["lc_win_score"], found["lc_low"], found["lc_high"]) == (None, None, None)
    assert reason in found["lc_note"] and found["lc_n"] == len(scores)


def test_too_many_resamples_without_an_estimate_leave_no_interval():
    scores, lengths = [0] * 14 + [1] + [1] * 14 + [0], [*range(-14, 1), *range(0, 15)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = control.length_control(scores, [50] * 30, [50 + length for length in lengths], resamples=100)
    assert found["lc_win_score"] is not None and (found["lc_low"], found["lc_high"]) == (None, None)
    assert "resamples, so no interval" in found["lc_note"]


@pytest.mark.parametrize("raw", [0.03, 0.2, 0.5, 0.7, 0.95])
def test_extreme_changes_are_those_of_alpaca_eval(raw):
    """In its own terms: below min(raw - raw / 4, raw - 10 points) or above max(raw + (100 - raw) / 4, raw + 10)."""
    low, high = min(raw - raw / 4, raw - 0.1), max(raw + (1 - raw) / 4, raw + 0.1)
    for controlled in np.linspace(0.001, 0.999, 500):
        assert bool(control._extreme(raw, controlled)) == (controlled < low or controlled > high)
    assert "+29 points" in control._extreme(0.0918, 0.3780)


def test_bad_values_are_errors():
    with pytest.raises(ValueError, match="2 scores and 3 pairs"):
        control.length_control([1, 0], [1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="scores from 0 to 1"):
        control.length_control([1, 1.5], [1, 2], [1, 2])


def rows_of(letters, test_set, original, optimized, how=None):
    verdicts, answers = [], []
    for number, letter in enumerate(letters):
        key = str(number)
        state = (how or {}).get(number, "judged")
        verdicts.append(Verdict(key, test_set, "bpo", "weak", "rubric", letter, letter, letter, "", "", state))
        for side, length in (("original", original[number]), ("bpo", optimized[number])):
            answers.append(Answer(key, test_set, side, "weak", "", "x" * length))
    return verdicts, answers


def test_table_has_a_row_for_each_set_and_the_pool():
    scores, original, optimized = made_rows(60)
    letters = [{1.0: "B", 0.5: "C", 0.0: "A"}[score] for score in scores]
    letters[0] = "invalid"
    verdicts, answers = rows_of(letters[:20] + ["refused"], "vicuna", [*original[:20], 0], [*optimized[:20], 9])
    verdicts[20] = rows_of(["refused"] * 21, "vicuna", [0] * 21, [9] * 21, {20: "no_answer"})[0][20]
    more = rows_of(letters[20:], "bpo_test", original[20:], optimized[20:])
    rows = control.table(verdicts + more[0], answers + more[1], resamples=40)
    assert [(row["test_set"], row["lc_n"], row["lc_left_out"]) for row in rows] == [
        ("bpo_test", 40, 0),
        ("vicuna", 20, 1),
        ("pooled", 60, 1),
    ]
    scores[0] = 0.5
    alone = control.length_control(scores[:20], original[:20], optimized[:20], resamples=40)
    names = {"test_set": "vicuna", "answer_model": "weak", "judge": "rubric", "lc_left_out": 1}
    assert rows[1] == names | alone
    with pytest.raises(ValueError, match="vicuna, 20, original, weak: judged, but there is no such answer"):
        control.table([*verdicts[:20], Verdict(**{**verdicts[20].__dict__, "how": "judged"})], answers[:-2])
    with pytest.raises(ValueError, match="several rewriters"):
        control.table([verdicts[0], Verdict(**{**verdicts[1].__dict__, "rewriter": "identity"})], answers)
