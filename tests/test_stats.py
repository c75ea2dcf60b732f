"""Win rates, intervals and tests; the published figures of AlpacaEval from the folder BPO_JUDGMENTS_DIR."""

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from bpo_utils import stats
from bpo_utils.records import LETTERS, Verdict


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
    assert stats.pooled_net_win({"vicuna": {"C": 40, "refused": 20, "invalid": 20}}) == stats.net_win({"C": 80})


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


def test_pooled_interval_does_not_change_from_release_to_release():
    counts = {"vicuna": {"A": 5, "B": 60, "C": 15}, "dolly": {"A": 90, "B": 60, "C": 40, "invalid": 10}}
    moved = {"vicuna": counts["vicuna"], "dolly": {"A": 90, "B": 60, "C": 40, "invalid": 3, "refused": 7}}
    assert (
        stats.pooled_net_win(counts)
        == stats.pooled_net_win(moved)
        == (0.08928571428571429, -0.0035714285714285713, 0.18214285714285713)
    )


def test_summarise_has_the_form_of_results_json():
    rows = stats.summarise(
        verdicts({"A": 25, "B": 48, "C": 7}) + verdicts({"A": 1, "B": 2, "invalid": 1}, test_set="bpo_test")
    )
    assert [row["test_set"] for row in rows] == ["bpo_test", "vicuna", "pooled"]
    keys = ["test_set", "answer_model", "judge", "n", "counts", "net_win", "ci_low", "ci_high"]
    assert all(list(row) == keys and list(row["counts"]) == list(LETTERS) for row in rows)
    assert rows[0]["n"] == 4 and rows[0]["net_win"] == 0.25
    assert rows[2]["n"] == 84 and rows[2]["counts"] == {"A": 26, "B": 50, "C": 7, "invalid": 1, "refused": 0}
    assert rows[2]["ci_low"] < rows[2]["net_win"] == 24 / 84 < rows[2]["ci_high"]
    sets = {"bpo_test": rows[0]["counts"], "vicuna": rows[1]["counts"]}
    assert (rows[2]["net_win"], rows[2]["ci_low"], rows[2]["ci_high"]) == stats.pooled_net_win(sets)


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


# --- scores, tests and the panel -------------------------------------------------------------------------------------


def two_orders(counts, **names):
    """Verdicts from how often each pair of letters (original first, optimized first) came; refused stays refused."""
    orders = [pair for pair, count in counts.items() for _ in range(count)]
    rows = []
    for number, (first, second) in enumerate(orders):
        bad = [letter for letter in (first, second) if letter in ("invalid", "refused")]
        letter = bad[0] if bad else first if first == second else "C"
        rows.append(verdict(number, letter, orders=(first, second), **names))
    return rows


MIXED = {
    ("B", "B"): 20,
    ("B", "C"): 8,
    ("A", "B"): 6,
    ("A", "A"): 9,
    ("C", "C"): 4,
    ("invalid", "B"): 2,
    ("refused", "refused"): 1,
}


def test_average_of_orders_gives_half_for_what_names_no_winner():
    scores = [stats.average_score(row) for row in two_orders(dict.fromkeys(MIXED, 1))]
    assert scores == [1, 0.75, 0.5, 0, 0.5, 0.75, 0.5]
    assert stats.average_score(verdict(0, "C", orders=("A", "C"))) == 0.25


def test_average_net_win_is_the_t_interval_of_the_questions():
    rows = two_orders(MIXED)
    values = [2 * stats.average_score(row) - 1 for row in rows]
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    found = stats.average_net_win({"vicuna": rows})
    assert found == pytest.approx((sum(values) / 50, interval.low, interval.high))
    twice = ttest_1samp(values * 2, 0).confidence_interval(0.95)  # two orders as two observations: too narrow
    assert found[2] - found[1] > 1.3 * (twice.high - twice.low)
    assert stats.average_net_win({"vicuna": rows[:20]}) == stats.net_win({"B": 20})
    both = stats.average_net_win({"vicuna": rows, "dolly": rows})
    assert both[0] == pytest.approx(found[0]) and both[2] - both[1] == pytest.approx(twice.high - twice.low, rel=0.05)
    assert both == stats.average_net_win({"vicuna": rows, "dolly": rows}, seed=0)


def test_sign_test_of_the_published_vicuna_bar():
    assert stats.sign_test({"A": 25, "B": 48, "C": 7}) == pytest.approx(0.0095, abs=5e-5)
    assert stats.sign_test({"A": 48, "B": 25, "refused": 700}) == stats.sign_test({"A": 25, "B": 48})
    assert stats.sign_test({"C": 9}) == 1


@pytest.mark.parametrize("n, no_ties, some_ties", [(80, 31, 26), (200, 20, 17), (252, 18, 15), (732, 10, 9)])
def test_smallest_detectable_net_win_of_the_four_sizes(n, no_ties, some_ties):
    assert round(100 * stats.smallest_detectable(n, 0)) == no_ties
    assert round(100 * stats.smallest_detectable(n)) == some_ties


def test_smallest_detectable_is_found_in_80_percent_of_simulated_tables():
    effect = stats.smallest_detectable(732)
    drawn = np.random.default_rng(0).multinomial(732, [(0.7 + effect) / 2, (0.7 - effect) / 2, 0.3], size=400)
    shown = [stats.sign_test({"B": int(wins), "A": int(losses)}) < 0.05 for wins, losses, _ in drawn]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.06)
    assert stats.smallest_detectable(732, power=0.9) > effect
    assert stats.smallest_detectable(5, 0.3) is None and stats.smallest_detectable(80, 1) is None
    for bad in ((0, 0.3, 0.8), (80, 1.2, 0.8), (80, 0.3, 0.01)):
        with pytest.raises(ValueError, match="needs n >= 1"):
            stats.smallest_detectable(*bad)


def test_panel_has_everything_beside_the_rows_of_summarise():
    rows = two_orders(MIXED) + two_orders({("A", "A"): 10, ("B", "B"): 30}, test_set="dolly")
    panel = stats.panel(rows)
    plain = stats.summarise(rows)
    assert [{key: row[key] for key in plain[0]} for row in panel] == plain
    dolly, vicuna, pooled = panel
    assert vicuna["counts"] == {"A": 9, "B": 20, "C": 18, "invalid": 2, "refused": 1}
    for row in panel:
        assert sum(row["counts"].values()) == row["n"]
        undecided = row["n"] - row["counts"]["A"] - row["counts"]["B"]
        assert row["win_score"] == pytest.approx((row["counts"]["B"] + undecided / 2) / row["n"])
        for end in ("low", "high"):
            assert row[f"win_score_{end}"] == pytest.approx((1 + row[f"ci_{end}"]) / 2)
        assert row["smallest_detectable"] == stats.smallest_detectable(row["n"], 1 - (1 - undecided / row["n"]))
    assert vicuna["average_score"] == pytest.approx((20 + 8 * 0.75 + 6 / 2 + 4 / 2 + 2 * 0.75 + 1 / 2) / 50)
    assert vicuna["average_net_win"] == pytest.approx(2 * vicuna["average_score"] - 1)
    assert vicuna["average_score_low"] < vicuna["average_score"] < vicuna["average_score_high"]
    assert dolly["average_score"] == dolly["win_score"] == 0.75
    assert pooled["average_score"] == pytest.approx((50 * vicuna["average_score"] + 30) / 90)


def test_p_values_are_corrected_over_the_whole_table_by_holm():
    rows = verdicts({"A": 20, "B": 40}) + verdicts({"A": 20, "B": 38}, test_set="dolly")
    rows += verdicts({"A": 10, "B": 11}, judge="other")
    panel = stats.panel(rows)
    assert len(panel) == 5
    largest = 0.0
    for place, row in enumerate(sorted(panel, key=lambda row: row["p"])):
        largest = max(largest, min(1.0, (5 - place) * row["p"]))
        assert row["p_holm"] == pytest.approx(largest)
    assert stats.panel([]) == []


def test_panel_of_controls_and_of_all_ties():
    (row, pooled) = stats.panel(verdicts({"C": 30}, rewriter="identity"), keep_rewriter=True)
    assert row["rewriter"] == "identity" and row["p"] == row["p_holm"] == 1 and row["smallest_detectable"] is None
    assert (row["win_score"], row["average_score"]) == (0.5, 0.5) and row["average_score_low"] < 0.5
    with pytest.raises(ValueError, match="several rewriters"):
        stats.panel(verdicts({"B": 1}) + verdicts({"B": 1}, rewriter="identity"))


def test_tables_are_joined_by_what_names_their_rows():
    panel = stats.panel(verdicts({"B": 2, "A": 1}))
    names = {"answer_model": "weak", "judge": "rubric"}
    habits = [{"test_set": name, **names, "flip_rate": rate} for name, rate in (("pooled", 0.2), ("vicuna", 0.1))]
    joined = stats.side_by_side(panel, habits)
    assert [(row["test_set"], row["n"], row["flip_rate"]) for row in joined] == [("vicuna", 3, 0.1), ("pooled", 3, 0.2)]
    with pytest.raises(ValueError, match="pooled, weak, rubric: no such row"):
        stats.side_by_side(panel, habits[1:])


# --- AlpacaEval's soft preferences -----------------------------------------------------------------------------------


def test_preference_summary_by_hand():
    found = stats.preference_summary([1, 2, 1.5, 1.9])
    assert found == {
        "n": 4,
        "win_rate": pytest.approx(60),
        "standard_error": pytest.approx(100 * np.std([0, 1, 0.5, 0.9], ddof=1) / 2),
        "discrete_win_rate": pytest.approx(62.5),
    }
    assert stats.preference_summary([2.0])["standard_error"] is None
    for bad, said in (([], "no preferences"), ([1.0, 0.0], "1 of 2, the first 0.0"), ([float("nan")], "first nan")):
        with pytest.raises(ValueError, match=said):
            stats.preference_summary(bad)


@pytest.mark.skipif(not os.environ.get("BPO_JUDGMENTS_DIR"), reason="BPO_JUDGMENTS_DIR is not set: no real preferences")
def test_the_published_figures_of_alpaca_eval():
    """Every win rate, standard error and discrete win rate of published.csv, to all its 15 digits or so."""
    folder = Path(os.environ["BPO_JUDGMENTS_DIR"]) / "alpaca_eval2"
    published = list(csv.DictReader((folder / "published.csv").open(encoding="utf-8", newline="")))
    assert len(published) == 5
    for row in published:
        with (folder / f"{row['model']}.csv").open(encoding="utf-8", newline="") as file:
            found = stats.preference_summary(float(one["preference"]) for one in csv.DictReader(file))
        assert found["n"] == int(row["n"]) == 805
        for column in ("win_rate", "standard_error", "discrete_win_rate"):
            assert found[column] == pytest.approx(float(row[column]), rel=1e-14), (row["model"], column)
