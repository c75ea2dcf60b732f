"""ProTeGi: reasons for errors ("textual gradients") edit the instruction, a beam of candidates is kept by a bandit.

    C <- the seed
    S times: M <- a minibatch of train, the same for all parents
             for each p in C: E <- rows of M that p gets wrong; for each of 4 groups of up to 4 of E: a reason why p
                 failed, and an edit of p that mends it; paraphrases of edits and p; at most 8 children
             C <- the best b of children and parents, by a bandit's estimate on train rows
    return the best of C and the seed on dev

Automatic Prompt Optimization with "Gradient Descent" and Beam Search (arXiv 2305.03495): algorithms 1 and 2; defaults:
the command line of the released code (microsoft/LMOps, prompt_optimization). Ours: the final choice on dev rows, and
tags around a paraphrase, so that an apology is none.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from bpo_utils.profile import Section
from bpo_utils.search import gradients as part
from bpo_utils.search import select
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import best, errors, evaluate
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.state import Search, add, note, start, steps
from bpo_utils.search.task import Row

NAME, PAPER, KNOB = "ProTeGi", "arXiv 2305.03495", "rounds"


class Settings(Section):
    rounds: int = 6  # S
    beam: int = 4  # b
    minibatch: int = 64  # rows on which parents are run in search of errors
    n_gradients: int = 4  # groups of errors
    errors_per_gradient: int = 4  # errors in a group
    gradients_per_error: int = 1  # reasons asked for a group
    steps_per_gradient: int = 1  # edits asked for a reason
    mc_samples_per_step: int = 2  # paraphrases of each edit and of the parent
    max_expansion_factor: int = 8  # children of a parent
    reject_on_errors: bool = False  # keep the children that do best on the parent's errors; off: at random
    # the paper's choice, its best in the comparison of bandits; the released command line has bf
    selector: Literal["bf", "ucb", "ucb_e", "sr", "s_sr", "sh"] = "ucb"
    samples_per_eval: int = 32  # rows of a bandit's round; a selection may take the product of these three
    eval_rounds: int = 8
    eval_prompts_per_round: int = 8
    c: float = 1.0  # weight of UCB's bonus
    released: bool = False  # the selector as it was released (`select` says what differs)
    temperature: float = 0.7  # of the optimizer
    seeds: list[str] = []  # further first instructions


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """Calls at most; of the optimizer, completions. By default 21 parents in six rounds: 13,632 target calls and the
    dev rows of five candidates, and 378 completions."""
    pool, parents = 1 + len(settings.seeds), 0
    target = select.most(settings.selector, part.rules(settings), pool, sizes.train) if pool > 1 else 0
    for _ in range(settings.rounds):
        target += round_cost(settings, sizes.train, min(settings.beam, pool))
        parents += min(settings.beam, pool)
        pool = arms(settings, min(settings.beam, pool))
    target += keep(settings, sizes.dev)
    return Plan(target, parents * asked(settings)[1])


def asked(settings: Settings) -> tuple[int, int]:
    """Requests and completions of the optimizer for one parent: 13 and 18. The released code asks for all paraphrases
    of an instruction in one request; here every completion is a request, and counted."""
    reasons = settings.n_gradients * settings.gradients_per_error
    varied = 1 + reasons * settings.steps_per_gradient
    fixed = settings.n_gradients + reasons
    return fixed + varied, fixed + varied * settings.mc_samples_per_step


def children(settings: Settings) -> int:
    """Children of one parent at most, before the cap: 14 by default."""
    edits = settings.n_gradients * settings.gradients_per_error * settings.steps_per_gradient
    return edits + (edits + 1) * settings.mc_samples_per_step


def arms(settings: Settings, parents: int) -> int:
    """Candidates among which a round selects, at most: 36 with four parents."""
    return parents * (1 + min(settings.max_expansion_factor, children(settings)))


def round_cost(settings: Settings, train: int, parents: int) -> int:
    """Target calls of a round with so many parents, at most."""
    looked = min(settings.minibatch, train)
    tried = min(2 * settings.max_expansion_factor, children(settings))
    if settings.reject_on_errors and tried > settings.max_expansion_factor:
        looked += tried * min(2 * settings.max_expansion_factor, looked)
    return parents * looked + select.most(settings.selector, part.rules(settings), arms(settings, parents), train)


def keep(settings: Settings, dev: int) -> int:
    """Target calls that are kept for the final choice: the beam and the seed on dev."""
    return (settings.beam + 1) * dev


def run(search: Search, settings: Settings) -> Candidate:
    """The best on dev of the last beam and the seed."""
    beam, train = first(search, settings), search.task.train

    def worst() -> int:
        return round_cost(settings, len(train), len(beam))

    for _ in steps(search, settings.rounds, worst, keep(settings, len(search.task.dev))):
        rows = search.rng.sample(train, min(settings.minibatch, len(train)))
        evaluate(search, beam, rows)
        wrong = {one.id: errors(search, one, rows) for one in beam}
        groups = [part.Wrong(one, group) for one in beam for group in drawn(search, wrong[one.id], settings)]
        beam = part.chosen(search, expand(search, beam, groups, wrong, settings), settings)
        note(search, beam[0])
    return final(search, beam)


def first(search: Search, settings: Settings) -> list[Candidate]:
    """Round 0: the best first instructions; a single one needs no score."""
    pool = [start(search), *(add(search, text, "seed") for text in settings.seeds)]
    return part.chosen(search, [one for one in pool if one], settings)


def drawn(search: Search, wrong: Sequence[Row], settings: Settings) -> list[list[Row]]:
    """Groups of errors at random. Where nothing is wrong there are none, and the optimizer is not asked why."""
    size = min(settings.errors_per_gradient, len(wrong))
    return [search.rng.sample(wrong, size) for _ in range(settings.n_gradients if wrong else 0)]


def expand(
    search: Search,
    parents: Sequence[Candidate],
    groups: Sequence[part.Wrong],
    wrong: dict[str, list[Row]],
    settings: Settings,
    mend: Callable[..., list[part.Child]] = part.edits,
) -> list[Candidate]:
    """Children by all reasons, at most so many of each parent, and the parents themselves."""
    if len({one.parent for one in groups}) < len(parents):
        search.tell("an instruction is right on all rows it was run on: no reason is asked, it stays in the pool")
    mended = mend(search, part.gradients(search, groups, settings), settings)
    varied = part.paraphrases(search, [*mended, *(part.Child(one, one) for one in parents)], settings)
    return part.unique([*part.capped(search, [*mended, *varied], wrong, settings), *parents])


def final(search: Search, beam: Sequence[Candidate]) -> Candidate:
    """The best of the seed and the last beam on dev rows, which no reason was drawn from."""
    found = best(search, part.unique([start(search), *beam]), search.task.dev)[0]
    note(search, found)
    return found
