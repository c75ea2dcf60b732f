"""OPRO: a list of instructions with their scores, in ascending order, is continued by the optimizer again and again.

    H <- the seed with its score
    repeat: show the best of H, worst first, and some exemplars; sample K instructions; score them; add them to H
    return the best of H

Large Language Models as Optimizers (arXiv 2309.03409): sections 3 and 4.2 (loop, meta-prompt), 5.1 (settings), 5.3
(ablations); `opt_utils.py` of google-deepmind/opro where the paper is silent. Scores come from dev rows and exemplars
from train rows; with `fraction` both come from one part of train, as in the original, and dev only chooses in the end.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from bpo_utils.profile import Section
from bpo_utils.search import evidence, prompts
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import best, evaluate, mean
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.propose import Meta, Proposal, propose
from bpo_utils.search.state import Search, note, start, steps
from bpo_utils.search.task import Row

NAME, PAPER, KNOB = "OPRO", "arXiv 2309.03409", "rounds"
LEAST_SHOWN = 5  # ours: the threshold could hide every instruction of a hard task
MARK = re.compile(r"\bINS\b")  # of the place where the instruction stands; a text with it was copied from an exemplar


class Settings(Section):
    rounds: int = Field(default=200, ge=1)  # steps, section 5.1
    candidates: int = Field(default=8, ge=1)  # per step, section 5.1 (ablation 5.3: best of 1, 2, 4, 8, 16)
    temperature: float = 1.0  # of the optimizer, section 5.1
    max_tokens: int = 512  # of its reply, the released code with GPT
    fraction: float | None = Field(default=None, gt=0, le=1)  # of train; the paper: .035 GSM8K, .2 BBH, .8 MMLU
    finalists: int = Field(default=5, ge=0)  # with `fraction`: so many go to dev; ours. 0: none, as in the paper
    kept: int = Field(default=20, ge=1)  # instructions shown, section 5.1
    threshold: float = 0.3  # below it an instruction is hidden, not deleted; the released code, GPT targets
    buckets: int | None = 100  # scores shown as round(100 x score); null: three decimals (ablation 5.3)
    exemplars: int = Field(default=3, ge=0)  # shown in a step, section 5.1 (ablation 5.3: better than 0 and 10)
    # random: drawn anew for each step; constant: the same; missed_ever: of those that any instruction got wrong;
    # missed_now: those that the instructions shown got wrong most often (the released code has all four)
    choice: Literal["random", "constant", "missed_ever", "missed_now"] = "random"
    order: Literal["ascending", "descending", "random"] = "ascending"  # ablation 5.3: ascending is best
    exemplars_first: bool = False  # the released code: instructions before exemplars
    instructions_only: bool = False  # section 5.1, for optimizers that were only pre-trained; no exemplars then
    longest: int = 500  # characters of an instruction, the released code
    no_digits: bool = False  # the released code leaves out instructions with a digit on GSM8K

    @model_validator(mode="after")
    def _scored_rows(self) -> "Settings":
        if self.choice.startswith("missed") and self.fraction is None:
            told = f"choice: {self.choice} shows rows that were scored, and those must not be of dev"
            raise ValueError(f"{told}; give `fraction` too: a part of train is scored then (the paper: 0.035 to 0.8)")
        return self


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """Calls at most: every instruction on every row that scores, and the finalists on dev."""
    proposals = settings.rounds * settings.candidates
    rows = sizes.dev if settings.fraction is None else max(1, int(settings.fraction * sizes.train))
    return Plan((1 + proposals) * rows + final(settings, sizes.dev), proposals)


def final(settings: Settings, dev: int) -> int:
    """Target calls of the choice on dev, which only a score on train makes necessary."""
    return 0 if settings.fraction is None else min(settings.finalists, 1 + settings.rounds * settings.candidates) * dev


def run(search: Search, settings: Settings) -> Candidate:
    """The best instruction of all that were tried. Raises what `chat.complete` raises."""
    history, rows = [start(search)], scoring(search, settings)
    evaluate(search, history, rows)
    note(search, history[0])
    keep = final(settings, len(search.task.dev))
    for step in steps(search, settings.rounds, settings.candidates * len(rows), keep):
        shown = trajectory(search, history, rows, settings)
        meta = meta_prompt(search, shown, rows, step, settings)
        one, sampling = Proposal(meta, tuple(shown), "continue"), (settings.temperature, settings.max_tokens)
        new = propose(search, [one], lambda reply: cleaned(reply, settings), settings.candidates, *sampling)
        evaluate(search, new, rows)
        history += new
        note(search, best(search, history, rows)[0])
    if not keep:
        return best(search, history, rows)[0]
    found = best(search, best(search, history, rows, settings.finalists), search.task.dev)[0]
    note(search, found)
    return found


def scoring(search: Search, settings: Settings) -> Sequence[Row]:
    """The rows that every instruction is scored on: dev, or a part of train (rounded down, as in the released code)."""
    if settings.fraction is None:
        return search.task.dev
    count = max(1, int(settings.fraction * len(search.task.train)))
    return tuple(random.Random(f"{search.seed} opro").sample(search.task.train, count))


def trajectory(search: Search, history: list[Candidate], rows: Sequence[Row], settings: Settings) -> list[Candidate]:
    """The best of the history that pass the threshold, at least LEAST_SHOWN; worst first, of equals the older first.

    A blind optimizer gets the newest ones in the order of their birth: which are the best is evidence, too.
    """
    if search.blind:
        return history[-settings.kept :]
    ranked = best(search, history, rows, settings.kept)
    passed = sum(mean(search, one, rows) >= settings.threshold for one in ranked)
    found = ranked[: max(LEAST_SHOWN, passed)]
    if settings.order == "random":
        return search.rng.sample(found, len(found))
    return found if settings.order == "descending" else sorted(found, key=lambda one: mean(search, one, rows))


def bucket(score: float, buckets: int | None) -> str:
    """A score as it is shown."""
    return f"{score:.3f}" if buckets is None else str(round(score * buckets))


def exemplars(search: Search, shown: list[Candidate], rows: Sequence[Row], step: int, settings: Settings) -> list[Row]:
    """The train rows of one step; those that were missed come first, and a draw fills up where there are too few."""
    pool = search.task.train if settings.fraction is None else rows
    drawn = random.Random(f"{search.seed} {0 if settings.choice == 'constant' else step}").sample(pool, len(pool))
    if settings.choice.startswith("missed"):
        tried, wrong = search.candidates if settings.choice == "missed_ever" else shown, Counter[str]()
        for one in tried:
            wrong.update(row.id for row in pool if search.scores[one.id][row.id].value < search.task.right)
        now = settings.choice == "missed_now"
        drawn.sort(key=lambda row: -wrong[row.id] if now else not wrong[row.id])  # stable: equals stay as drawn
    return drawn[: settings.exemplars]


def meta_prompt(search: Search, shown: list[Candidate], rows: Sequence[Row], step: int, settings: Settings) -> Meta:
    """The meta-prompt of a step: scored instructions, and exemplars with a mark where the instruction will stand.

    With `instructions_only` each score stands before its text, so that the list can be gone on with.
    """
    scores = [bucket(mean(search, one, rows), settings.buckets) for one in shown]
    listed = evidence.trajectory(search, shown, scores, score_first=settings.instructions_only)
    what = "start of the answer" if search.task.position in ("answer", "A_begin") else "instruction"
    told = {"about": search.task.about, "what": what, "order": settings.order, "range": str(settings.buckets or 1)}
    if settings.instructions_only:
        return Meta("opro_only", prompts.filled("opro_only", trajectory=listed, **told))
    parts = [listed, evidence.placed(search, exemplars(search, shown, rows, step, settings))]
    first, second = reversed(parts) if settings.exemplars_first else parts
    return Meta("opro", prompts.filled("opro", first=first, second=second, **told))


def cleaned(reply: str, settings: Settings) -> str:
    """The instruction of a reply: the first tagged text, or the rest where a tag is missing, without `**`, with a
    capital; "" if it breaks a rule. The original drops such a text, here it is asked for once more."""
    text = prompts.first_or_rest(reply, "instruction").replace("**", "").strip()
    text = text[:1].upper() + text[1:]
    dropped = len(text) > settings.longest or MARK.search(text)
    return "" if dropped or (settings.no_digits and re.search(r"\d", text)) else text
