import numpy as np
import pytest
from scipy import stats

from bpo_utils import seeds
from bpo_utils import stats as bpo_stats


def test_one_seed_is_students_interval_over_questions():
    scores = [1.0, 0.0, -1.0, 1.0, 1.0, 0.0]
    found = seeds.over([scores])
    low, high = stats.t.interval(0.95, 5, loc=np.mean(scores), scale=stats.sem(scores))
    assert (found.low, found.high) == pytest.approx((low, high)) and (found.n, found.seeds) == (6, 1)


def test_seeds_that_differ_widen_the_interval_to_students_for_few_seeds():
    table = [[level] * 50 for level in (0.1, 0.2, 0.3)]
    found = seeds.over(table)
    low, high = stats.t.interval(0.95, 2, loc=0.2, scale=stats.sem([0.1, 0.2, 0.3]))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.spread == pytest.approx((0.1, 0.2, 0.3))


def test_equal_seeds_add_nothing_to_one():
    scores = [1.0, 0.0, -1.0, 1.0, 1.0, 0.0]
    one, three = seeds.over([scores]), seeds.over([scores] * 3)
    assert (three.low, three.high) == pytest.approx((one.low, one.high))


@pytest.mark.parametrize("seed_sd", [0.0, 0.3])
def test_intervals_cover_the_truth_about_as_often_as_they_say(seed_sd):
    rng, covered, trials = np.random.default_rng(1), 0, 400
    for _ in range(trials):
        table = 0.2 + seed_sd * rng.normal(size=(3, 1)) + 0.6 * rng.normal(size=(1, 60)) + rng.normal(size=(3, 60))
        found = seeds.over(table)
        covered += found.low <= 0.2 <= found.high
    assert 0.92 <= covered / trials <= 0.99


def test_verdicts_count_as_everywhere():
    found = seeds.net_win([["B", "A", "C", "B"], ["B", "invalid", "C", "B"]])
    assert found.mean == pytest.approx((0.25 + 0.5) / 2) and found.n == 4


def test_equal_verdicts_leave_room_for_others_and_no_interval_leaves_the_scale():
    ties = seeds.net_win([["C"] * 11])
    assert (ties.low, ties.high) == pytest.approx(bpo_stats.net_win({"C": 11})[1:]) and ties.high > 0.1
    wins = seeds.net_win([["B"] * 9 + ["A", "A"]] * 2)
    assert -1 <= wins.low < wins.mean < wins.high <= 1
    assert seeds.net_win([["B"] * 10 + ["C"]]).high == 1


def test_unequal_rows_are_refused():
    with pytest.raises(ValueError, match=r"rows of one length, at least 2; these have \[1, 2\]"):
        seeds.over([[1.0, 2.0], [1.0]])
    with pytest.raises(ValueError, match="no rows"):
        seeds.over([])
