"""Bandit selectors: published schedules as they are, the budget, and that the best arm is kept."""

import math
import random
from functools import cache

import pytest

from bpo_utils.search import race, select, select_released
from bpo_utils.search.race import Estimate, Rules, estimate, top

EVERY = sorted(select.SELECTORS)
REJECTING = ["s_sr", "sh", "sr"]
RELEASED = Rules(released=True)


class Arms:
    """Arms with a value for each row; counts pairs that were pulled, and keeps every pull."""

    def __init__(self, value):
        self.value, self.known, self.pulls = value, set(), []

    def __call__(self, arms, rows):
        assert len(set(arms)) == len(arms)
        assert len(set(rows)) == len(rows)
        new = {(arm, row) for arm in arms for row in rows} - self.known
        self.known |= new
        self.pulls.append((list(arms), list(rows), new))
        return [[self.value(arm, row) for row in rows] for arm in arms]

    @property
    def total(self):
        """Values that were given, the repeated ones too."""
        return sum(len(arms) * len(rows) for arms, rows, _ in self.pulls)


def names(count):
    return [f"c{number}" for number in range(count)]


@cache
def noise(arm, row):
    return random.Random(f"{arm} {row}").random()


def coin(arm, row):
    """Right or wrong; arms with a higher number are right more often."""
    return float(noise(arm, row) < int(arm[1:]) / 40)


def chosen(name, arms, rows, pull, rules, seed="1"):
    return top(arms, select.SELECTORS[name](arms, rows, pull, rules, seed), rules.beam, seed)


# published numbers


@pytest.mark.parametrize(
    ("bonus", "c", "first", "second"),
    [
        (select.bonus_ucb, 1.0, 0.8897, 0.8682),
        (select.bonus_ucb, 0.5, 0.7948, 0.7341),
        (select.bonus_ucb_e, 1.0, 0.8250, 0.7768),
    ],
)
def test_the_index_of_an_arm_is_the_published_one(bonus, c, first, second):
    assert bonus(0.70, 64, 10, c) == pytest.approx(first, abs=5e-5)
    assert bonus(0.60, 32, 10, c) == pytest.approx(second, abs=5e-5)


def test_successive_rejects_has_the_textbook_schedule():
    ends = select.rejects(36, 4, 2048)
    assert (ends[:3], ends[-3:], len(ends)) == ([16, 16, 17], [79, 92, 110], 32)
    assert spent(ends, 36) == 1602
    assert spent(select.rejects(36, 1, 2048), 36) == 2030


def spent(ends, arms):
    return sum(
        (arms - phase) * (now - before) for phase, (now, before) in enumerate(zip(ends, [0, *ends], strict=False))
    )


def test_successive_rejects_pulls_what_its_schedule_says():
    arms = Arms(noise)
    found = select.successive_rejects(names(36), range(400), arms, Rules(), "1")
    assert len(arms.known) == arms.total == 1602
    assert sorted(one.rows for one in found)[-4:] == [110] * 4
    assert min(one.rows for one in found) == 16


def test_the_released_successive_rejects_spends_almost_three_budgets():
    phases = select_released.rejects(36, 4, 2048)
    assert (phases[:3], phases[-1], len(phases)) == ([17, 4, 4], 283, 32)
    arms = Arms(noise)
    select.successive_rejects(names(36), range(400), arms, RELEASED, "1")
    assert arms.total == 5878
    assert select.most("sr", RELEASED, 36, 400) == 6615  # of fewer arms: it spends even more on some


def test_successive_halving_has_the_textbook_rounds():
    rounds = select.halving(36, 4, 2048)
    assert rounds == [(36, 14), (18, 28), (9, 56), (5, 102)]
    arms = Arms(noise)
    found = select.successive_halving(names(36), range(400), arms, Rules(), "1")
    assert len(arms.known) == arms.total == 2022
    assert [(len(some), len(rows)) for some, rows, _ in arms.pulls] == rounds
    assert sum(one.stayed == max(other.stayed for other in found) for one in found) == 4


def test_the_released_successive_halving_does_not_halve():
    tied = Arms(lambda arm, row: 1.0)
    found = select.successive_halving(names(8), range(400), tied, RELEASED, "1")
    assert {one.stayed for one in found} == {3}  # all go on where all tie, so the beam of 4 has 8
    for count in range(2, 40):  # where the mean of equal means is rounded up, they still reach it
        tied = Arms(lambda arm, row, count=count: count / 41)
        assert len({one.stayed for one in select.successive_halving(names(count), range(9), tied, RELEASED, "1")}) == 1
    one = Arms(lambda arm, row: float(arm == "c3"))
    found = select.successive_halving(names(8), range(400), one, RELEASED, "1")
    assert [one.stayed for one in found] == [0, 0, 0, 3, 0, 0, 0, 0]  # and a beam of 4 can have 1


def test_the_released_ucb_looks_at_the_same_arms_twice_and_then_at_unseen_ones():
    arms = Arms(noise)
    found = select.ucb(names(40), range(400), arms, RELEASED, "1")
    rounds = [set(some) for some, _, _ in arms.pulls]
    assert len(rounds) == 8
    assert rounds[0] == rounds[1]
    assert not any(rounds[t] & rounds[t + 1] for t in range(1, 5))
    few = select.ucb(names(80), range(400), Arms(noise), RELEASED, "1")
    unseen = [one for one in few if not one.rows]
    assert len(unseen) == 80 - 7 * 8
    assert {one.mean for one in unseen} == {0.0}
    assert sum(one.rows for one in found) == 2048


def test_the_released_ucb_counts_a_row_that_was_seen_again():
    arms = Arms(noise)
    found = select.ucb(names(8), range(40), arms, RELEASED, "1")
    assert len(arms.known) == 8 * 40
    assert {one.rows for one in found} == {8 * 32}


def test_the_released_simple_rejects_can_pass_the_budget():
    rules = Rules(budget=100, released=True)
    arms = Arms(noise)
    select.simple_rejects(names(36), range(400), arms, rules, "1")
    assert 100 < arms.total == 8 * 28 + 7 + 6 + 5 + 8 <= select.most("s_sr", rules, 36, 400)


# properties


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("seed", range(30))
def test_no_selector_passes_its_budget_or_counts_a_row_twice(name, seed):
    rng = random.Random(seed)
    arms, rows = names(rng.randint(1, 40)), range(rng.randint(1, 80))
    rules = Rules(rng.randint(1, 900), rng.randint(1, 5), rng.randint(1, 32), rng.randint(1, 9))
    pull = Arms(coin)
    found = select.SELECTORS[name](arms, rows, pull, rules, str(seed))
    assert len(pull.known) <= rules.budget
    assert [one.rows for one in found] == [sum(arm == other for other, _ in pull.known) for arm in arms]
    for arm, one in zip(arms, found, strict=True):
        values = [coin(arm, row) for other, row in pull.known if other == arm]
        assert one[:3] == pytest.approx(estimate(values)[:3])
    assert len(set(top(arms, found, rules.beam, "1"))) == min(rules.beam, len(arms))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("seed", range(8))
def test_the_released_ones_stay_within_what_is_planned_for_them(name, seed):
    rng = random.Random(seed)
    count, rows = rng.randint(6, 40), rng.randint(33, 80)
    rules = Rules(rng.choice([64, 300, 2048]), rng.randint(1, 5), rng.randint(1, 32), rng.randint(1, 8), released=True)
    pull = Arms(coin)
    select.SELECTORS[name](names(count), range(rows), pull, rules, str(seed))
    assert len(pull.known) <= select.most(name, rules, count, rows)


@pytest.mark.parametrize("name", ["ucb", "ucb_e"])
def test_ucb_spends_all_of_its_budget(name):
    for budget in (100, 333, 1000):
        pull = Arms(noise)
        select.SELECTORS[name](names(13), range(200), pull, Rules(budget, 4, 16, 5), "1")
        assert len(pull.known) == budget


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_the_arms_does_not_matter(name, seed):
    rng = random.Random(seed)
    arms = names(rng.randint(5, 30))
    rules = Rules(rng.randint(60, 600), rng.randint(1, 4), 16, 4)
    other = rng.sample(arms, len(arms))
    first, second = (chosen(name, order, range(60), Arms(noise), rules) for order in (arms, other))
    assert first == second
    tied = [chosen(name, order, range(60), Arms(lambda arm, row: 0.5), rules) for order in (arms, other)]
    assert tied[0] == tied[1]  # the seed decides between equals, and not their place
    assert chosen(name, arms, range(60), Arms(lambda arm, row: 0.5), rules, "2") != tied[0] or len(arms) < 9


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("seed", range(15))
def test_an_arm_that_is_best_on_every_row_is_never_rejected(name, seed):
    rng = random.Random(seed)
    arms = names(rng.randint(2, 36))
    best = rng.choice(arms)
    rules = Rules(rng.randint(3 * len(arms), 900), rng.randint(1, 4), rng.randint(1, 32), rng.randint(2, 8))
    assert best in chosen(
        name, arms, range(60), Arms(lambda arm, row: 1.0 if arm == best else coin(arm, row) / 2), rules
    )


@pytest.mark.parametrize("name", ["bf", *REJECTING])
@pytest.mark.parametrize("seed", range(15))
def test_rows_of_unlike_difficulty_do_not_hide_the_best_arm(name, seed):
    """Some rows are easy for all and some hard: only a comparison on the same rows is fair."""
    rng = random.Random(seed)
    arms = names(rng.randint(2, 36))
    best = rng.choice(arms)
    rules = Rules(rng.randint(3 * len(arms), 900), rng.randint(1, 4), 8, rng.randint(2, 8))
    pull = Arms(lambda arm, row: row % 10 / 10 + (0.09 if arm == best else 0.08 * noise(arm, row)))
    assert best in chosen(name, arms, range(60), pull, rules)


@pytest.mark.parametrize("name", EVERY)
def test_the_arms_of_a_round_see_the_same_rows_in_one_pull(name):
    pull = Arms(coin)
    found = select.SELECTORS[name](names(12), range(500), pull, Rules(400, 3, 8, 4), "1")
    for arms, rows, new in pull.pulls:
        assert len(new) == len(arms) * len(rows)  # with rows enough nobody is shown one again
    last = [one for one in found if one.stayed == max(other.stayed for other in found)]
    if name in ("bf", "sr", "sh"):
        assert len({one.rows for one in last}) == 1


def test_ucb_gives_more_rows_to_better_arms_and_finds_them_more_often_than_brute_force():
    wins = {"ucb": 0, "bf": 0}
    for seed in range(60):

        def value(arm, row, seed=seed):
            chance = 0.75 if arm == "c7" else 0.5
            return float(random.Random(f"{seed} {arm} {row}").random() < chance)

        for name in wins:
            wins[name] += chosen(name, names(24), range(300), Arms(value), Rules(480, 1, 5, 4), str(seed)) == ["c7"]
    assert wins["ucb"] > wins["bf"] + 5


def test_time_is_the_number_of_pulls_so_far(monkeypatch):
    seen = []
    monkeypatch.setattr(select, "bonus_ucb", lambda mean, rows, t, c: seen.append((t, c)) or mean)
    select.ucb(names(6), range(90), Arms(noise), Rules(200, 2, 10, 3, 0.5), "1")
    assert list(dict.fromkeys(seen)) == [(60, 0.5), (90, 0.5), (120, 0.5), (150, 0.5), (180, 0.5), (198, 0.5)]


def test_evidence_of_all_phases_counts():
    """c0 has bad luck in the last rows; ranked by fresh rows alone it would go."""
    order = race.Race(names(3), range(100), None, 0, "1").rows
    late = set(order[select.rejects(3, 1, 120)[0] :])

    def value(arm, row):
        if arm == "c0":
            return 0.0 if row in late else 1.0
        return 0.3 if arm == "c1" else 0.1

    assert chosen("sr", names(3), range(100), Arms(value), Rules(120, 1)) == ["c0"]


# estimates


def test_an_estimate_has_mean_rows_and_standard_error():
    assert estimate([1.0, 0.0, 1.0, 0.0]) == Estimate(0.5, 4, pytest.approx(math.sqrt(1 / 3) / 2), 0)
    assert estimate([1.0]) == Estimate(1.0, 1, math.inf)
    assert estimate([]) == Estimate(0.0, 0, math.inf)


def test_who_stayed_longer_is_better_and_who_was_never_seen_is_last():
    found = [
        Estimate(0.9, 4, 0.1, 0),
        Estimate(0.2, 8, 0.1, 1),
        Estimate(0.0, 0, math.inf, 1),
        Estimate(0.0, 9, 0.0, 1),
    ]
    assert top(names(4), found, 4, "1") == ["c1", "c3", "c2", "c0"]


def test_a_budget_below_one_row_for_each_is_kept():
    for name in EVERY:
        pull = Arms(noise)
        assert len(chosen(name, names(9), range(50), pull, Rules(5, 2))) == 2
        assert len(pull.known) <= 5
