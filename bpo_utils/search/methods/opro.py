"""OPRO: a list of instructions with their scores, in ascending order, is continued by the optimizer again and again.

    H <- the seed with its score
    repeat: show the best of H, worst first, and some exemplars; sample K instructions; score them; add them to H
    return the best of H

Large Language Models as Optimizers (arXiv 2309.03409): sections 3 and 4.2 (loop, meta-prompt), 5.1 (settings), 5.3
(ablations); `opt_utils.py` of google-deepmind/opro where the paper is silent. Scores come from dev rows, exemplars from
train rows.
"""

from collections import Counter
from typing import Literal

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


class Settings(Section):
    rounds: int = 200  # steps, section 5.1
    candidates: int = 8  # per step, section 5.1 (ablation 5.3: best of 1, 2, 4, 8, 16)
    temperature: float = 1.0  # of the optimizer, section 5.1
    kept: int = 20  # instructions shown, section 5.1
    threshold: float = 0.3  # below it an instruction is hidden, not deleted; the released code, GPT targets
    buckets: int | None = 100  # scores shown as round(100 x score); null: three decimals (ablation 5.3)
    exemplars: int = 3  # training rows shown in a step, section 5.1 (ablation 5.3: better than 0 and 10)
    # random: drawn anew for each step; constant: the same; missed_ever, missed_now: rows that were wrong most often,
    # ever or with the instructions shown (the released code's accumulative_ and current_most_frequent)
    choice: Literal["random", "constant", "missed_ever", "missed_now"] = "random"
    order: Literal["ascending", "descending", "random"] = "ascending"  # ablation 5.3: ascending is best
    exemplars_first: bool = False  # the released code: instructions before exemplars
    instructions_only: bool = False  # the layout for optimizers without instruction tuning, section 5.1
    longest: int = 500  # characters of an instruction, the released code
    no_digits: bool = False  # the released code leaves out instructions with a digit on GSM8K


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """Calls at most: every instruction on every dev row."""
    proposals = settings.rounds * settings.candidates
    return Plan(target=(1 + proposals) * sizes.dev, optimizer=proposals)


def run(search: Search, settings: Settings) -> Candidate:
    """The best instruction on dev of all that were tried. Raises what `chat.complete` raises."""
    dev = search.task.dev
    history = [start(search)]
    evaluate(search, history, dev)
    for step in steps(search, settings.rounds, worst=settings.candidates * len(dev)):
        shown = in_order(search, above(search, history, settings), settings)
        meta = meta_prompt(search, shown, exemplars(search, shown, step, settings), settings)
        proposal = Proposal(meta, tuple(shown), "continue")
        new = propose(
            search, [proposal], lambda reply: cleaned(reply, settings), settings.candidates, settings.temperature
        )
        evaluate(search, new, dev)
        history += new
        note(search, best(search, history, dev)[0])
    return best(search, history, dev)[0]


def above(search: Search, history: list[Candidate], settings: Settings) -> list[Candidate]:
    """The best of the history that pass the threshold; at least LEAST_SHOWN of them, whatever they score."""
    ranked = best(search, history, search.task.dev, settings.kept)
    passed = [one for one in ranked if mean(search, one, search.task.dev) >= settings.threshold]
    return passed if len(passed) >= LEAST_SHOWN else ranked[: max(LEAST_SHOWN, len(passed))]


def in_order(search: Search, shown: list[Candidate], settings: Settings) -> list[Candidate]:
    """Instructions as they are shown: by default worst first, best last, of equals the older first."""
    if settings.order == "random":
        return search.rng.sample(shown, len(shown))
    return sorted(shown, key=lambda one: mean(search, one, search.task.dev), reverse=settings.order == "descending")


def bucket(score: float, buckets: int | None) -> str:
    """A score as it is shown."""
    return f"{score:.3f}" if buckets is None else str(round(score * buckets))


def exemplars(search: Search, shown: list[Candidate], step: int, settings: Settings) -> list[Row]:
    """The training rows of one step."""
    import random

    rows = list(search.task.train)
    if settings.choice in ("random", "constant"):
        drawn = random.Random(f"{search.seed} {step if settings.choice == 'random' else 0}")
        return drawn.sample(rows, min(settings.exemplars, len(rows)))
    wrong = Counter()
    for one in search.candidates if settings.choice == "missed_ever" else shown:
        known = search.scores.get(one.id, {})
        wrong.update(row.id for row in rows if row.id in known and known[row.id].value < search.task.right)
    return sorted(rows, key=lambda row: (-wrong[row.id], row.id))[: settings.exemplars]


def meta_prompt(search: Search, shown: list[Candidate], rows: list[Row], settings: Settings) -> Meta:
    """The meta-prompt of a step: scored instructions, and exemplars with a mark where the instruction will stand."""
    scores = [bucket(mean(search, one, search.task.dev), settings.buckets) for one in shown]
    trajectory = evidence.trajectory(search, shown, scores)
    what = "start of the answer" if search.task.position in ("answer", "A_begin") else "instruction"
    if settings.instructions_only:
        values = {"about": search.task.about, "what": what, "trajectory": trajectory}
        return Meta("opro_only", prompts.filled("opro_only", **values))
    parts = [trajectory, evidence.placed(search, rows)]
    first, second = reversed(parts) if settings.exemplars_first else parts
    return Meta("opro", prompts.filled("opro", about=search.task.about, what=what, first=first, second=second))


def cleaned(reply: str, settings: Settings) -> str:
    """The instruction of a reply: the tagged text, or the rest where a tag is missing; "" if it is to be dropped."""
    text = prompts.first_or_rest(reply, "instruction").replace("**", "")
    text = text[:1].upper() + text[1:]
    dropped = len(text) > settings.longest or evidence.PLACE in text
    return "" if dropped or (settings.no_digits and any(letter.isdigit() for letter in text)) else text
