"""Which of many candidates to keep, when looking at all of them on all rows would cost too much: bandit selectors.

An arm is a candidate, a pull is one row evaluated with it. Every selector takes the arms' names, the rows, `pull(arms,
rows)` (the values of each arm on each row, which asks for no pair twice), the rules and a seed; it returns an estimate
for every arm, in order. It spends at most the budget, counts no row twice for an arm, gives the arms of a round the
same rows, and breaks ties by a seeded order of the names, so that the order of the arms does not matter.

ProTeGi (arXiv 2305.03495), section 3.2; Audibert, Bubeck and Munos 2010 for Successive Rejects and UCB-E; Karnin, Koren
and Somekh 2013 for Successive Halving. With `Rules.released` each does what the released code does instead (microsoft/
LMOps, prompt_optimization/evaluators.py); its docstring says where that differs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from bpo_utils.search import select_released
from bpo_utils.search.race import Estimate, Pull, Race, Rules, lot


def brute_force(arms: Sequence[str], rows: Sequence[Any], pull: Pull, rules: Rules, seed: str) -> list[Estimate]:
    """Every arm on the same floor(budget / arms) rows. The released code does the same."""
    race = Race(arms, rows, pull, rules.budget, seed)
    race.look(race.alive(), max(1, rules.budget // len(arms)))
    return race.estimates()


def bonus_ucb(mean: float, rows: float, t: float, c: float) -> float:
    """UCB's index: mean + c sqrt(ln t / rows), t >= 1."""
    return mean + c * math.sqrt(math.log(t) / rows)


def bonus_ucb_e(mean: float, rows: float, t: float, c: float) -> float:
    """UCB-E's index as ProTeGi has it: mean + c sqrt(c / rows); t plays no part."""
    return mean + c * math.sqrt(c / rows)


def ucb(arms: Sequence[str], rows: Sequence[Any], pull: Pull, rules: Rules, seed: str) -> list[Estimate]:
    """Upper confidence bound: rows go to the arms whose mean could be highest. t = all pulls so far.

    Every arm is looked at first, in one block of the same rows, for which at most half of the budget is taken (ours:
    with many arms nothing would be left to choose with). Released: t is the number of the round, from 0; round 0 takes
    arms at random, round 1 has ln 1 = 0 and takes the same again, and then unseen arms have a huge bonus (their rows
    count as 0.001); a row seen twice counts twice; arms that were never pulled get 0.
    """
    return _ucb(arms, rows, pull, rules, seed, bonus_ucb)


def ucb_e(arms: Sequence[str], rows: Sequence[Any], pull: Pull, rules: Rules, seed: str) -> list[Estimate]:
    """UCB-E: as UCB, with a bonus that does not grow; released: as there."""
    return _ucb(arms, rows, pull, rules, seed, bonus_ucb_e)


def _ucb(
    arms: Sequence[str],
    rows: Sequence[Any],
    pull: Pull,
    rules: Rules,
    seed: str,
    bonus: Callable[[float, float, float, float], float],
) -> list[Estimate]:
    if rules.released:
        return select_released.ucb(arms, rows, pull, rules, seed, bonus)
    race = Race(arms, rows, pull, rules.budget, seed)
    race.look(race.alive(), min(rules.samples, max(1, rules.budget // (2 * len(arms)))))
    while race.left:
        open_arms = [arm for arm in race.alive() if race.values[arm] and len(race.values[arm]) < len(rows)]
        if not open_arms:
            break
        pulls = sum(len(found) for found in race.values.values())
        index = {arm: bonus(race.mean(arm), len(race.values[arm]), pulls, rules.c) for arm in open_arms}
        race.look(sorted(open_arms, key=lambda arm: -index[arm])[: rules.prompts], rules.samples)
    return race.estimates()


def rejects(arms: int, beam: int, budget: int) -> list[int]:
    """Successive Rejects: rows that each arm has seen by the end of phase 1, 2 ... until `beam` arms are left.

    n_k = ceil((budget - arms) / (L (arms + 1 - k))) with L = 1/2 + the sum of 1/i for i = 2 to `arms`.
    """
    spread = 0.5 + sum(1 / i for i in range(2, arms + 1))
    share = max(0, budget - arms) / spread
    return [max(1, math.ceil(share / (arms + 1 - k))) for k in range(1, arms - beam + 1)]


def successive_rejects(arms: Sequence[str], rows: Sequence[Any], pull: Pull, rules: Rules, seed: str) -> list[Estimate]:
    """Phase by phase everybody sees more rows, and the worst over all rows so far goes, until the beam is left.

    Released: phases of `select_released.rejects`, each ranked by its fresh rows alone; with 36 arms, a beam of 4 and
    a budget of 2,048 it spends 5,878.
    """
    if rules.released:
        phases = select_released.rejects(len(arms), rules.beam, rules.budget)
        return select_released.rejecting(arms, rows, pull, seed, [(len(arms), count) for count in phases])
    race, before = Race(arms, rows, pull, rules.budget, seed), 0
    for phase, upto in enumerate(rejects(len(arms), rules.beam, rules.budget)):
        race.look(race.alive(), upto - before)
        race.out[race.ranked(race.alive())[-1]] = phase
        before = upto
    return race.estimates()


def simple_rejects(arms: Sequence[str], rows: Sequence[Any], pull: Pull, rules: Rules, seed: str) -> list[Estimate]:
    """ProTeGi's s-sr: compare a few arms drawn at random (8), drop their worst, and again until the beam is left.

    Each comparison gets an equal share of what is left of the budget, and ranks by all rows that the arms share so
    far; where a share is under two pulls, the draw decides. Released: ceil(budget / (8 (arms - beam))) rows in each,
    which can pass the budget, ranked by these rows alone.
    """
    phases = len(arms) - rules.beam
    if rules.released:
        count = math.ceil(rules.budget / (phases * rules.prompts)) if phases > 0 else 0
        return select_released.rejecting(arms, rows, pull, seed, [(rules.prompts, count)] * phases)
    race = Race(arms, rows, pull, rules.budget, seed)
    for phase in range(phases):
        share = race.left // (phases - phase)
        order = sorted(race.alive(), key=lambda arm: lot(f"{seed} {phase}", arm))
        some = order[: max(2, min(rules.prompts, share))]
        if share >= len(some):
            race.look(some, share // len(some))
        race.out[race.ranked(some)[-1]] = phase
    return race.estimates()


def halving(arms: int, beam: int, budget: int) -> list[tuple[int, int]]:
    """Successive Halving: (arms, rows for each) by round; ceil(log2(arms / beam)) rounds, each with an equal share."""
    rounds, found = math.ceil(math.log2(arms / beam)) if arms > beam else 0, []
    for _ in range(rounds):
        found.append((arms, budget // (arms * rounds)))
        arms = max(beam, math.ceil(arms / 2))
    return found


def successive_halving(arms: Sequence[str], rows: Sequence[Any], pull: Pull, rules: Rules, seed: str) -> list[Estimate]:
    """The better half goes on, by the mean over all rows so far, until the beam is left.

    Released: ceil(log2 arms) rounds; whoever reaches the mean of the round's fresh scores goes on, so that all do if
    they tie, more than the beam can be left, or fewer.
    """
    if rules.released:
        return select_released.halving(arms, rows, pull, rules, seed)
    race, plan = Race(arms, rows, pull, rules.budget, seed), halving(len(arms), rules.beam, rules.budget)
    for phase, (_, count) in enumerate(plan):
        going = race.alive()
        race.look(going, count)
        kept = max(rules.beam, math.ceil(len(going) / 2))
        race.out |= {arm: phase for arm in race.ranked(going)[kept:]}
    return race.estimates()


SELECTORS = {
    "bf": brute_force,
    "ucb": ucb,
    "ucb_e": ucb_e,
    "sr": successive_rejects,
    "s_sr": simple_rejects,
    "sh": successive_halving,
}


def most(name: str, rules: Rules, arms: int, rows: int) -> int:
    """Pulls at most, if up to so many arms take part: the budget, but for the released rejects, which pass it."""
    if not (rules.released and name in ("sr", "s_sr")):
        return min(rules.budget, arms * rows)
    found = 0
    for count in range(rules.beam + 1, arms + 1):
        left = range(count, rules.beam, -1)
        if name == "sr":
            phases = select_released.rejects(count, rules.beam, rules.budget)
            spent = sum(here * min(rows, each) for here, each in zip(left, phases, strict=True))
        else:
            each = min(rows, math.ceil(rules.budget / (len(left) * rules.prompts)))
            spent = sum(min(here, rules.prompts) * each for here in left)
        found = max(found, spent)
    return found
