import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from bpo_utils import stats
from bpo_utils.records import Verdict


def verdict(number, letter, test_set="vicuna", rewriter="bpo", model="weak", judge="rubric", orders=None):
    first, second = orders or (letter, letter)
    return Verdict(str(number), test_set, rewriter, model, judge, first, second, letter, "", "")


def verdicts(counts, **names):
    letters = [letter for letter, count in counts.items() for _ in range(count)]
    return [verdict(number, letter, **names) for number, letter in enumerate(letters)]


def outcomes(counts):
    return np.repeat([1.0, 0.0, 0.0, -1.0], [counts.get(letter, 0) for letter in ("B", "C", "invalid", "A")])


def test_net_win_of_the_published_vicuna_bar():
    """48 / 7 / 25 of 80: SE 10.2 points; the normal interval is +8.7 to +48.8, Student's is a little wider."""
    net, low, high = stats.net_win({"A": 25, "B": 48, "C": 7, "invalid": 0})
    error = math.sqrt((73 / 80 - (23 / 80) ** 2) / 79)
    assert net == 0.2875 and round(100 * error, 1) == 10.2
    assert (round(100 * (net - 1.959964 * error), 1), round(100 * (net + 1.959964 * error), 1)) == (8.7, 48.8)
    assert (low, high) == (pytest.approx(0.0835, abs=5e-5), pytest.approx(0.4915, abs=5e-5))


@pytest.mark.parametrize(
    "counts", [{"A": 25, "B": 48, "C": 7}, {"A": 1, "B": 0, "C": 9, "invalid": 3}, {"A": 60, "B": 80, "invalid": 60}]
)
def test_net_win_is_the_one_sample_t_interval(counts):
    interval = ttest_1samp(outcomes(counts), 0).confidence_interval(0.95)
    assert stats.net_win(counts) == pytest.approx((outcomes(counts).mean(), interval.low, interval.high))


def test_interval_stays_within_one():
    assert stats.net_win({"B": 3, "A": 1})[1:] == (-1.0, 1.0)


def test_all_alike_gives_the_exact_interval_and_not_a_point():
    share = binomtest(80, 80).proportion_ci(0.95, method="exact").low
    assert stats.net_win({"C": 80}) == (0, pytest.approx(share - 1), pytest.approx(1 - share))
    assert stats.net_win({"C": 50, "invalid": 30}) == stats.net_win({"C": 80})
    assert stats.net_win({"B": 80}) == (1, pytest.approx(2 * share - 1), 1)
    assert stats.net_win({"A": 80}) == (-1, -1, pytest.approx(1 - 2 * share))
    assert stats.pooled_net_win({"dolly": {"C": 40}, "vicuna": {"C": 40}}) == stats.net_win({"C": 80})
    assert stats.net_win({"B": 1}) == (1, pytest.approx(-0.95), 1)


def test_no_verdicts_and_unknown_letters_are_errors():
    with pytest.raises(ValueError, match="no verdicts"):
        stats.net_win({"A": 0})
    with pytest.raises(ValueError, match="unknown verdicts"):
        stats.net_win({"A": 1, "tie": 2})


def test_pooled_interval_is_the_stratified_bootstrap():
    counts = {"vicuna": {"A": 5, "B": 60, "C": 15}, "dolly": {"A": 90, "B": 60, "C": 40, "invalid": 10}}
    net, low, high = stats.pooled_net_win(counts)
    assert net == (120 - 95) / 280
    random = np.random.default_rng(5)
    sums = sum(random.choice(outcomes(one), (20_000, sum(one.values()))).sum(axis=1) for one in counts.values())
    assert (low, high) == pytest.approx(tuple(np.quantile(sums / 280, [0.025, 0.975])), abs=0.006)
    everything = np.concatenate([outcomes(one) for one in counts.values()])
    plain = 2 * 1.96 * everything.std() / math.sqrt(280)
    assert high - low < 0.97 * plain  # sets of unlike outcome: strata make it narrower than one big bootstrap
    assert stats.pooled_net_win(counts) == (net, low, high)
    assert len({stats.pooled_net_win(counts, resamples=99, seed=seed) for seed in range(5)}) > 1


def test_summarise_has_the_form_of_results_json():
    rows = stats.summarise(
        verdicts({"A": 25, "B": 48, "C": 7}) + verdicts({"A": 1, "B": 2, "invalid": 1}, test_set="bpo_test")
    )
    assert [row["test_set"] for row in rows] == ["bpo_test", "vicuna", "pooled"]
    keys = ["test_set", "answer_model", "judge", "n", "counts", "net_win", "ci_low", "ci_high"]
    assert all(list(row) == keys and list(row["counts"]) == ["A", "B", "C", "invalid"] for row in rows)
    assert rows[0]["n"] == 4 and rows[0]["net_win"] == 0.25
    assert rows[2]["n"] == 84 and rows[2]["counts"] == {"A": 26, "B": 50, "C": 7, "invalid": 1}
    assert rows[2]["ci_low"] < rows[2]["net_win"] == 24 / 84 < rows[2]["ci_high"]


def test_tables_keep_the_controls_apart():
    found = stats.tables(verdicts({"B": 3, "A": 1}) + verdicts({"C": 4}, rewriter="identity"))
    assert [row["counts"]["B"] for row in found["rows"]] == [3, 3] and "rewriter" not in found["rows"][0]
    assert [(row["rewriter"], row["counts"]["C"]) for row in found["controls"]] == [("identity", 4)] * 2


def test_summarise_refuses_to_mix_or_count_twice():
    with pytest.raises(ValueError, match="several rewriters"):
        stats.summarise(verdicts({"B": 1}) + verdicts({"B": 1}, rewriter="identity"))
    with pytest.raises(ValueError, match="judged more than once: vicuna, 0"):
        stats.summarise(verdicts({"B": 2}) + verdicts({"B": 1}))


def test_delta_wr_is_the_unweighted_mean():
    rows = stats.summarise(verdicts({"B": 4}) + verdicts({"A": 30, "B": 10}, test_set="dolly"))
    assert stats.delta_wr(rows) == [{"answer_model": "weak", "judge": "rubric", "test_sets": 2, "delta_wr": 0.25}]
    assert rows[-1]["net_win"] == pytest.approx(-16 / 44)


def test_flips_and_first_slot():
    rows = [
        verdict(1, "C", orders=("A", "B")),  # the first slot twice: flipped
        verdict(2, "B", orders=("B", "B")),  # second slot, then first slot
        verdict(3, "C", orders=("C", "B")),  # tie, then first slot: flipped
        verdict(4, "invalid", orders=("A", "invalid")),  # first slot; not counted as flipped or not
    ]
    assert stats.flip_rate(rows) == pytest.approx(2 / 3)
    assert stats.first_slot_rate(rows) == pytest.approx(5 / 6)
    assert stats.flip_rate(rows[3:]) is None
    assert stats.first_slot_rate([verdict(1, "C")]) is None


def test_kappa_of_a_textbook_table():
    """20 both B, 5 B/A, 10 A/B, 15 both A: agreement 0.7, chance 0.5, kappa 0.4."""
    pairs = [("B", "B")] * 20 + [("B", "A")] * 5 + [("A", "B")] * 10 + [("A", "A")] * 15
    rows = []
    for number, letters in enumerate(pairs):
        rows += [verdict(number, letter, judge=judge) for letter, judge in zip(letters, ("x", "y"), strict=True)]
    rows.append(verdict(99, "B", judge="x"))  # judged by one only: left out
    assert stats.kappa(rows, "x", "y") == {"n": 50, "agreement": 0.7, "kappa": pytest.approx(0.4)}
    ties = [verdict(1, "C", judge=judge) for judge in ("x", "y")]
    assert stats.kappa(ties, "x", "y") == {"n": 1, "agreement": 1.0, "kappa": None}
    with pytest.raises(ValueError, match="judged by both"):
        stats.kappa(ties, "x", "z")


def test_tie_rates_and_their_paired_comparison():
    letters = [("C", "B")] * 30 + [("C", "C")] * 20 + [("A", "C")] * 10 + [("B", "invalid")] * 40
    rows = []
    for number, (strong, weak) in enumerate(letters):
        rows += [verdict(number, strong, model="strong"), verdict(number, weak, model="weak")]
    rows += [verdict(0, "C", model="strong", rewriter="identity"), verdict(500, "C", model="weak")]
    found = stats.tie_comparison(rows, "strong", "weak", "rubric")
    interval = ttest_1samp([1] * 30 + [0] * 60 + [-1] * 10, 0).confidence_interval(0.95)
    assert (found["n"], found["tie_stronger"], found["tie_weaker"]) == (100, 0.5, 0.3)
    assert (found["difference"], found["ci_low"], found["ci_high"]) == pytest.approx((0.2, interval.low, interval.high))
    assert stats.tie_rates(rows[:200])[0] == {"answer_model": "strong", "judge": "rubric", "n": 100, "tie_rate": 0.5}
    with pytest.raises(ValueError, match="no question answered by both"):
        stats.tie_comparison(rows, "strong", "absent", "rubric")
