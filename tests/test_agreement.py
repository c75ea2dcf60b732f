import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from bpo_utils import agreement
from bpo_utils.records import Answer, Verdict


def verdict(number, letter, test_set="vicuna", model="weak", judge="rubric", orders=None, how="judged"):
    first, second = orders or (letter, letter)
    return Verdict(str(number), test_set, "bpo", model, judge, first, second, letter, "", "", how)


def answers(lengths, test_set="vicuna", model="weak"):
    """Two answers for each (characters to the original prompt, characters to the optimized one)."""
    return [
        Answer(str(number), test_set, side, model, "", "x" * length)
        for number, pair in enumerate(lengths)
        for side, length in zip(("original", "bpo"), pair, strict=True)
    ]


def two_judges(pairs, models=("weak",)):
    return [
        verdict(number, letter, judge=judge, model=model)
        for model in models
        for number, letters in enumerate(pairs)
        for letter, judge in zip(letters, ("x", "y"), strict=True)
    ]


NOT_JUDGED = [verdict(90, "C", how="equal_answers"), verdict(91, "refused", how="no_answer")]
ORDERS = [
    verdict(1, "C", orders=("A", "B")),  # the first slot twice: flipped
    verdict(2, "B", orders=("B", "B")),  # second slot, then first slot
    verdict(3, "C", orders=("C", "B")),  # tie, then first slot: flipped
    verdict(4, "invalid", orders=("A", "invalid")),  # first slot; not counted as flipped or not
    verdict(5, "refused", orders=("refused", "A")),  # second slot; the same
]


def test_flips_and_first_slot():
    assert agreement.flip_rate(ORDERS) == pytest.approx(2 / 3)
    assert agreement.first_slot_rate(ORDERS) == pytest.approx(5 / 7)
    assert agreement.flip_rate(ORDERS[3:]) is None
    assert agreement.first_slot_rate([verdict(1, "C")]) is None


def test_only_what_was_put_to_a_judge_says_something_of_it():
    assert agreement.flip_rate(ORDERS + NOT_JUDGED) == agreement.flip_rate(ORDERS)
    biased = [replace(row, original_first="A", optimized_first="B") for row in NOT_JUDGED]
    assert agreement.first_slot_rate(ORDERS + biased) == agreement.first_slot_rate(ORDERS)
    rows = two_judges([("B", "A"), ("A", "A")])
    same = [verdict(8, "C", judge=judge, how="equal_answers") for judge in ("x", "y")]
    assert agreement.kappa(rows + same, "x", "y") == agreement.kappa(rows, "x", "y")
    assert agreement.longer_wins(NOT_JUDGED, []) == [{"judge": "rubric", "decided": 0, "longer_wins": None}]


def test_longer_wins_and_the_rule_of_the_longest():
    rows = [verdict(number, letter) for number, letter in enumerate("BBABAC")]
    texts = answers([(1, 2), (1, 9), (5, 2), (4, 3), (3, 3), (7, 8)])
    assert agreement.longer_wins(rows, texts) == [{"judge": "rubric", "decided": 4, "longer_wins": 0.75}]
    assert list(agreement.longest(rows, texts).values()) == ["B", "B", "A", "A", "C", "B"]
    with pytest.raises(ValueError, match="vicuna, 5, original, weak: judged, but there is no such answer"):
        agreement.longer_wins(rows, texts[:-2])


def test_habits_has_a_row_for_each_set_and_the_pool():
    rows = [verdict(0, "B"), verdict(1, "C", orders=("A", "B")), verdict(0, "A", "bpo_test"), verdict(7, "A", "other")]
    texts = answers([(1, 2), (3, 3)]) + answers([(1, 2)], "bpo_test") + answers([(0, 0)] * 7 + [(2, 1)], "other")
    found = agreement.habits([*rows, *NOT_JUDGED], texts)
    assert [row["test_set"] for row in found] == ["bpo_test", "vicuna", "other", "pooled"]
    assert found[1] == {
        "test_set": "vicuna",
        "answer_model": "weak",
        "judge": "rubric",
        "judged": 2,
        "flip_rate": 0.5,
        "first_slot_rate": 0.75,
        "tie_rate": 0.5,
        "longer_wins": 1.0,
        "longest_agreement": 1.0,
    }
    assert (found[3]["judged"], found[3]["longer_wins"], found[3]["longest_agreement"]) == (4, 2 / 3, 0.75)
    with pytest.raises(ValueError, match="several rewriters"):
        agreement.habits([rows[0], replace(rows[0], rewriter="identity")], texts)


def test_kappa_of_a_textbook_table():
    """20 both B, 5 B/A, 10 A/B, 15 both A: agreement 0.7, chance 0.5, kappa 0.4."""
    rows = two_judges([("B", "B")] * 20 + [("B", "A")] * 5 + [("A", "B")] * 10 + [("A", "A")] * 15)
    found = agreement.kappa([*rows, verdict(99, "B", judge="x")], "x", "y")  # judged by one only: left out
    assert (found["n"], found["agreement"], found["kappa"]) == (50, pytest.approx(0.7), pytest.approx(0.4))
    assert found == agreement.kappa(rows, "x", "y", seed=0) != agreement.kappa(rows, "x", "y", seed=1)
    error = 0.13  # of kappa in a table of 50, by statsmodels' formula
    assert found["kappa_low"] == pytest.approx(0.4 - 1.96 * error, abs=0.05)
    assert found["kappa_high"] == pytest.approx(0.4 + 1.96 * error, abs=0.05)
    with pytest.raises(ValueError, match="judged by both"):
        agreement.kappa(rows, "x", "z")


def test_kappa_of_nothing_but_ties_is_none_and_perfect_agreement_has_no_interval():
    found = agreement.kappa(two_judges([("C", "C")] * 9), "x", "y")
    assert (found["agreement"], found["kappa"], found["ac1"]) == (1, None, 1)
    assert found["kappa_low"] is found["kappa_high"] is found["ac1_low"] is None
    found = agreement.kappa(two_judges([("B", "B"), ("A", "A")] * 9), "x", "y")
    assert (found["kappa"], found["ac1"], found["ac1_low"]) == (1, 1, None)


def test_ac1_keeps_its_head_where_kappa_collapses():
    """118, 5, 2 and 0 of 125, Gwet's own example: they agree on 94 %, yet kappa is below zero; AC1 is 0.941."""
    table = np.array([[118, 5], [2, 0]])
    assert agreement.gwet_ac1(table) == pytest.approx(0.9408, abs=5e-5)
    assert agreement.cohens_kappa(table) == pytest.approx(-0.0234, abs=5e-5)
    assert agreement.gwet_ac1(np.full((3, 3), 4)) == pytest.approx(0)


def test_letters_that_occur_are_categories_besides_the_three():
    assert agreement.kappa(two_judges([("B", "B"), ("A", "A")] * 5), "x", "y")["ac1"] == 1
    found = agreement.kappa(two_judges([("B", "B")] * 6 + [("invalid", "A")] * 4), "x", "y")
    means = np.array([0.2, 0.6, 0.0, 0.2])
    chance = (means * (1 - means)).sum() / 3
    assert found["ac1"] == pytest.approx((0.6 - chance) / (1 - chance))


def test_one_question_under_several_models_is_one_observation():
    pairs = [("B", "B")] * 20 + [("B", "A")] * 5 + [("A", "B")] * 10 + [("A", "A")] * 15
    one = agreement.kappa(two_judges(pairs), "x", "y")
    four = agreement.kappa(two_judges(pairs, ("m1", "m2", "m3", "m4")), "x", "y")
    assert four["n"] == 200 and four["kappa"] == pytest.approx(one["kappa"])
    assert (four["kappa_low"], four["kappa_high"]) == pytest.approx((one["kappa_low"], one["kappa_high"]))


# --- people ----------------------------------------------------------------------------------------------------------


def label(number, letter, test_set="vicuna", model="weak"):
    return {"test_set": test_set, "id": str(number), "rewriter": "bpo", "answer_model": model, "label": letter}


def test_human_agreement_of_each_judge_and_of_the_longest():
    said = "B" * 12 + "A" * 8 + "C" * 4
    rows = [verdict(number, letter) for number, letter in enumerate("B" * 10 + "C" * 2 + "A" * 8 + "B" * 4)]
    rows += [verdict(number, "B", judge="always-b") for number in range(24)]
    labels = [label(number, letter) for number, letter in enumerate(said)] + [label(77, "A")]  # nobody judged 77
    judge, always, longest = agreement.human_agreement(labels, rows, answers([(1, 2)] * 12 + [(2, 1)] * 12))
    assert [row["judge"] for row in (judge, always, longest)] == ["rubric", "always-b", "longest"]
    assert (judge["n"], judge["agreement"]) == (24, pytest.approx(18 / 24))
    assert (judge["decided"], judge["agreement_decided"]) == (18, 1.0)
    assert (always["agreement"], always["agreement_decided"]) == (0.5, 0.6) and always["kappa"] == pytest.approx(0)
    assert longest["agreement"] == pytest.approx(20 / 24) and longest["judge_net_win"] == 0
    assert judge["kappa_low"] < judge["kappa"] < judge["kappa_high"]
    assert len(agreement.human_agreement(labels, rows)) == 2


def test_prediction_powered_net_win_by_hand():
    """A judge on 200 pairs, people on 40 of them: mean(judge) + mean(human - judge), variances added."""
    random = np.random.default_rng(1)
    letters = random.choice(["A", "B", "C"], 200, p=[0.2, 0.6, 0.2])
    rows = [verdict(number, letter) for number, letter in enumerate(letters)]
    said = [letter if random.random() < 0.7 else "A" for letter in letters[:40]]
    (found,) = agreement.human_agreement([label(number, letter) for number, letter in enumerate(said)], rows)
    value = {"A": -1, "B": 1, "C": 0}
    judge, human = ([value[letter] for letter in part] for part in (letters, said))
    gap = np.subtract(human, judge[:40])
    half = 1.959964 * math.sqrt(np.var(judge, ddof=1) / 200 + np.var(gap, ddof=1) / 40)
    net = np.mean(judge) + gap.mean()
    assert (found["judge_net_win"], found["ppi_net_win"]) == pytest.approx((np.mean(judge), net))
    assert (found["ppi_low"], found["ppi_high"]) == pytest.approx((net - half, net + half))
    interval = ttest_1samp(human, 0).confidence_interval(0.95)
    assert (found["human_net_win"], found["human_low"]) == pytest.approx((np.mean(human), interval.low))
    assert found["human_high"] == pytest.approx(interval.high) and found["ppi_net_win"] < found["judge_net_win"]


def test_the_corrected_interval_holds_what_people_would_say():
    """A judge that flatters: its own net win is off by 0.2, and the corrected interval covers the truth in 95 %."""
    random, covered = np.random.default_rng(2), 0
    for _ in range(150):
        truth = random.choice(["A", "B", "C"], 300, p=[0.35, 0.35, 0.3])
        judge = np.where((truth == "A") & (random.random(300) < 0.3), "B", truth)
        keys = [("vicuna", str(number), "bpo", "weak") for number in range(300)]
        human = dict(zip(keys[:100], truth[:100], strict=True))
        found = agreement.corrected_net_win(human, dict(zip(keys, judge, strict=True)), 300)
        covered += found["ppi_low"] <= 0 <= found["ppi_high"]
        assert found["judge_net_win"] > 0.03
    assert 136 <= covered <= 149


def test_labels_drawn_evenly_over_cells_of_unequal_size_are_weighted():
    """20 labels of 30 pairs where people agree, 20 of 170 where they say the opposite."""
    small = {("vicuna", str(number), "bpo", "weak"): "B" for number in range(30)}
    large = {("dolly", str(number), "bpo", "weak"): "B" for number in range(170)}
    human = dict.fromkeys(list(small)[:20], "B") | dict.fromkeys(list(large)[:20], "A")
    found = agreement.corrected_net_win(human, small | large, 200)
    assert found["ppi_net_win"] == found["human_net_win"] == pytest.approx((30 - 170) / 200)
    assert found["ppi_low"] < found["ppi_net_win"] < found["ppi_high"]


def test_pairs_that_were_not_judged_stay_in_n():
    rows = [verdict(number, "B") for number in range(30)]
    rows += [verdict(number, "C", how="equal_answers") for number in range(30, 60)]
    labels = [label(number, "B" if number < 15 else "C") for number in range(30)]
    (found,) = agreement.human_agreement(labels, rows)
    assert (found["judge_net_win"], found["ppi_net_win"]) == (0.5, pytest.approx(0.25))


def test_few_or_unvarying_labels_give_no_interval():
    rows = [verdict(number, letter) for number, letter in enumerate("AB" * 20)]
    few = agreement.human_agreement([label(number, "A") for number in range(19)], rows)[0]
    assert (few["ppi_low"], few["human_low"]) == (None, None) and few["ppi_net_win"] is not None
    same = agreement.human_agreement([label(number, "AB"[number % 2]) for number in range(40)], rows)[0]
    assert (same["ppi_low"], same["ppi_high"], same["ppi_net_win"]) == (None, None, 0) and same["human_low"] < 0


def test_bad_labels_are_errors():
    rows = [verdict(number, "B") for number in range(3)]
    for labels, said in (
        ([label(0, "tie")], "label 1, vicuna, 0, bpo, weak: 'tie'"),
        ([label(0, "A"), label(0, "B")], "label 2, .*: labelled twice"),
        ([{"id": "0", "label": "A"}], "label 1: lacks answer_model, rewriter, test_set"),
        ([label(50, "A")], "none of 1 labels belongs to a judged pair"),
        ([], "none of 0 labels"),
    ):
        with pytest.raises(ValueError, match=said):
            agreement.human_agreement(labels, rows)
    with pytest.raises(ValueError, match="several rewriters"):
        agreement.human_agreement([label(0, "A")], [*rows, replace(rows[0], rewriter="identity")])


def test_the_shift_of_another_prompt_is_paired_over_the_answers_judged_both_ways():
    plain = [verdict(n, letter) for n, letter in enumerate("BBBBBBAACC")] + [verdict(20, "B", how="equal_answers")]
    hardened = [verdict(n, letter) for n, letter in enumerate("BBBBCAAACC")] + [verdict(21, "B")]
    found = agreement.shift(plain, hardened)
    assert (found["n"], found["changed"]) == (10, 0.2)
    assert (found["net_win_plain"], found["net_win_changed"], found["difference"]) == pytest.approx((0.4, 0.1, -0.3))
    low, high = ttest_1samp([0, 0, 0, 0, -1, -2, 0, 0, 0, 0], 0).confidence_interval(0.95)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((low, high))
    same = agreement.shift(plain, plain)
    assert (same["changed"], same["difference"], same["ci_low"]) == (0, 0, None)
    with pytest.raises(ValueError, match="no answer was judged both ways"):
        agreement.shift(plain, hardened[-1:])
