"""Iterative APE: the pool of APE is renewed around its best instructions, by variations that keep their meaning.

    U <- APE's guesses, filtered
    repeat: keep the best half of U; ask for c variations of each; filter both together
    return the best on dev of all

Large Language Models Are Human-Level Prompt Engineers (arXiv 2211.01910), section 3.3 (iterative Monte-Carlo
search) and Algorithm 1. The released code has no such rounds (its issue 3 says why: the best
instruction did not get better), so this follows the paper's description.
"""

import math

from pydantic import Field

from bpo_utils.search import prompts
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.methods import ape
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.propose import Meta, Proposal, propose
from bpo_utils.search.state import Search, start, steps

NAME, PAPER, KNOB = "Iterative APE", "arXiv 2211.01910", "rounds"


class Settings(ape.Settings):
    rounds: int = Field(default=3, ge=1)  # ours; the steps of PE2, which compares itself with it (arXiv 2311.05661)
    variations: int = Field(default=1, ge=1)  # c; with keep 0.5 the pool stays as large as it was; ours


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """Calls at most: APE's, and in every round those of a pool in which no variation was known and all of them win."""
    first = ape.plan(settings, sizes)
    target, optimizer, pool = first.target, first.optimizer, first.optimizer
    for _ in range(settings.rounds):
        top = kept(settings, pool)
        pool = top + top * settings.variations
        target, optimizer = target + round_cost(settings, top, sizes.dev), optimizer + top * settings.variations
    return Plan(target, optimizer)


def kept(settings: Settings, pool: int) -> int:
    """How many of a pool are varied: those that go on after its first stage, and no more than of APE's pool."""
    return math.ceil(settings.keep * min(pool, settings.subsamples * settings.completions))


def round_cost(settings: Settings, top: int, dev: int) -> int:
    """Target calls of one round at most. The instructions that were kept passed a first stage before, so they have
    the scores of the first two; they never cost anything where a threshold or a single stage decides."""
    new = top * settings.variations
    sizes = ape.stages(settings, top + new, dev)
    free = len(sizes) if settings.threshold is not None else 2
    return sum((min(count, new) if stage < free else count) * rows for stage, (count, rows) in enumerate(sizes))


def run(search: Search, settings: Settings) -> Candidate:
    """The best instruction on dev of all rounds. Raises what `ape.run` raises."""
    seed = start(search)
    pool = ape.filtered(search, ape.generated(search, settings), settings)

    def worst() -> int:
        return round_cost(settings, kept(settings, len(pool)), len(search.task.dev))

    for _ in steps(search, settings.rounds, worst):
        top = pool[: kept(settings, len(pool))]
        pool = ape.filtered(search, [*top, *resampled(search, top, settings)], settings)
    return ape.leader(search, settings, seed)


def resampled(search: Search, top: list[Candidate], settings: Settings) -> list[Candidate]:
    """New variations of each instruction, with its meaning kept; the request shows nothing but the instruction."""
    metas = [Meta("paraphrase", prompts.filled("paraphrase", instruction=one.text)) for one in top]
    proposals = [Proposal(meta, (one,), "resample") for meta, one in zip(metas, top, strict=True)]
    sampling = {name: getattr(settings, name) for name in ("temperature", "max_tokens", "top_p")}
    return propose(search, proposals, prompts.plain, settings.variations, **sampling)
