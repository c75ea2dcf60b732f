"""APE: the optimizer guesses which instruction some input-output pairs follow; the guesses are scored and filtered.

    U <- {}
    repeat S times: draw d demonstrations; sample k instructions that explain them; add them to U
    repeat while more than a few are left: score U on a fresh part of dev; keep the better half of U
    return the best of U on all of dev

Large Language Models Are Human-Level Prompt Engineers (arXiv 2211.01910): sections 3.1 (generation), 3.2 (scores and
their filtering in stages), Algorithm 1; keirp/automatic_prompt_engineer where the paper is silent. The released code
has no stages, but plain scoring on a subset and a UCB bandit. It draws other rows for each instruction and answers at
temperature 0.7, which both add noise: here all are scored on the same rows at temperature 0.
"""

import math
import random
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from bpo_utils.profile import Section
from bpo_utils.search import evidence, likelihood, prompts
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import evaluate
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.propose import Meta, Proposal, propose
from bpo_utils.search.state import Search, note, save, start
from bpo_utils.search.task import Row, shown

NAME, PAPER, KNOB = "APE", "arXiv 2211.01910", "completions"
BLANK = "[____]"


class Settings(Section):
    mode: Literal["forward", "reverse", "customized"] = "forward"  # section 3.1; reverse needs no infilling model here
    subsamples: int = Field(default=5, ge=1)  # S; the released code (its instruction-induction script: 3)
    completions: int = Field(default=10, ge=1)  # k; S x k = 50, the paper's m (that script: 30; the library: 50)
    demos: int = Field(default=5, ge=1)  # d, the released code
    temperature: float = 0.9  # of the optimizer, the released code
    top_p: float = 0.9  # the released code
    max_tokens: int = 50  # the released code; raise it for tasks with long instructions
    score: Literal["accuracy", "logprob"] = "accuracy"  # section 3.2; accuracy follows the test more closely
    filter: Literal["adaptive", "plain"] = "adaptive"  # section 3.2; plain: the released code
    rows: int | None = 20  # plain: dev rows for all, that script; null: all of dev
    first: int = Field(default=8, ge=1)  # rows of the first stage; ours, the paper gives no sizes
    growth: int = Field(default=2, ge=1)  # of the next stage's rows; with halving every stage costs the same; ours
    keep: float = Field(
        default=0.5, gt=0, le=0.7
    )  # share that goes on to the next stage; ours, the paper says "top k %"
    threshold: float | None = None  # or: those at or above this mean go on, the paper's other wording
    few: int = Field(default=4, ge=1)  # so many end the stages, and are scored on all of dev; ours


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """Calls at most, if no two guesses are the same. An optimizer call is one completion; the released code asks for k
    of them in one request, and so counts S."""
    proposals = settings.subsamples * settings.completions
    target = sum(count * rows for count, rows in stages(settings, proposals, sizes.dev))
    return Plan(target, proposals)


def run(search: Search, settings: Settings) -> Candidate:
    """The best guess on dev; the first instruction, which is not in the pool, only if there is no guess.

    Raises what `chat.complete` raises, and ValueError for `score: logprob` with a target that cannot.
    """
    seed = start(search)
    ranked = filtered(search, generated(search, settings), settings)
    return leader(search, settings, ranked[0] if ranked else seed)


def generated(search: Search, settings: Settings) -> list[Candidate]:
    """Lines 1 to 3: the different guesses from S draws of d training rows."""
    if settings.score == "logprob":
        likelihood.require(search.roles.target)
    rows, count = search.task.train, min(settings.demos, len(search.task.train))
    metas = [meta_prompt(search, search.rng.sample(rows, count), settings) for _ in range(settings.subsamples)]
    read = prompts.line if settings.mode == "forward" else lambda reply: prompts.blank(reply, metas[0].text, BLANK)
    proposals = [Proposal(meta, operator=settings.mode) for meta in metas]
    sampling = {name: getattr(settings, name) for name in ("temperature", "max_tokens", "top_p")}
    return propose(search, proposals, read, settings.completions, **sampling)


def meta_prompt(search: Search, rows: Sequence[Row], settings: Settings) -> Meta:
    """The question for one draw of demonstrations. Raises ValueError if it does not have exactly one blank."""
    name, values = f"ape_{settings.mode}", {}
    if settings.mode == "customized":  # the task's own frame, such as a blank at the start of the answer
        values = {"about": search.task.about, "template": shown(search.task).replace("{instruction}", BLANK)}
    blanks = prompts.filled(name, examples="", **values).count(BLANK)
    if blanks != (settings.mode != "forward"):
        raise ValueError(f"meta-prompt {name}: {blanks} blanks {BLANK} in it and the task's form; there must be one")
    return Meta(name, prompts.filled(name, examples=evidence.examples(search, rows), **values))


def stages(settings: Settings, count: int, dev: int) -> list[tuple[int, int]]:
    """(instructions, rows) of every stage for a pool of `count` without a score; the last is what dev has left."""
    if settings.filter == "plain":
        return [(count, min(settings.rows or dev, dev))]
    found, left, size = [], dev, settings.first
    while count > settings.few and left:
        found.append((count, min(size, left)))
        left, size = left - found[-1][1], size * settings.growth
        count = count if settings.threshold is not None else going_on(settings, count)
    return [*found, (count, left)] if left else found


def going_on(settings: Settings, count: int) -> int:
    """How many of a pool go on to the next stage."""
    return max(min(settings.few, count), math.ceil(settings.keep * count))


def filtered(search: Search, pool: Sequence[Candidate], settings: Settings) -> list[Candidate]:
    """The pool, best first: who was kept longer stands in front, then who has the better mean over all rows seen.

    At least `few` have then been scored on all rows that decide; with `plain` all have.
    """
    rows, left, seen, size, dropped = deciding(search, settings), list(pool), 0, settings.first, []
    while settings.filter == "adaptive" and len(left) > settings.few and seen < len(rows):
        seen, size = min(seen + size, len(rows)), size * settings.growth
        found = ranking(search, left, rows[:seen], settings)
        passed = going_on(settings, len(found))
        if settings.threshold is not None:
            passed = max(settings.few, sum(mean >= settings.threshold for _, mean in found))
        left, dropped = [one for one, _ in found[:passed]], [*(one for one, _ in found[passed:]), *dropped]
        note(search, leader(search, settings, left[0]))
        save(search, f"{search.step}.{seen}")
    left = [one for one, _ in ranking(search, left, rows, settings)]
    note(search, leader(search, settings, left[0] if left else search.candidates[0]))
    return [*left, *dropped]


def deciding(search: Search, settings: Settings) -> list[Row]:
    """The dev rows that decide, in the order in which stages take them: the same in every round, so that what was
    scored in an earlier one is not paid again."""
    rows = search.task.dev
    count = min(settings.rows or len(rows), len(rows)) if settings.filter == "plain" else len(rows)
    return random.Random(f"{search.seed} ape").sample(rows, count)


def ranking(
    search: Search, pool: Sequence[Candidate], rows: Sequence[Row], settings: Settings
) -> list[tuple[Candidate, float]]:
    """(candidate, mean over these rows), best first, of equals the older; scored where needed."""
    score = likelihood.evaluate if settings.score == "logprob" else evaluate
    return sorted(zip(pool, score(search, pool, rows), strict=True), key=lambda pair: (-pair[1], int(pair[0].id[1:])))


def leader(search: Search, settings: Settings, otherwise: Candidate) -> Candidate:
    """The best of all that were scored on every row that decides; `otherwise`, if there is none yet."""
    rows, table = deciding(search, settings), search.likelihoods if settings.score == "logprob" else search.scores
    known = [one for one in search.candidates if all(row.id in table.get(one.id, {}) for row in rows)]
    return ranking(search, known, rows, settings)[0][0] if known else otherwise
