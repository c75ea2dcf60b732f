"""How difficult a row is, for the curriculum: seven ways to measure it, and what each costs. Larger is harder.

length      words of the input
error_rate  1 - mean score of the target over k runs with the first instruction
margin      1 - the share of the most frequent reading of the k answers
entropy     of the readings of the k answers, in [0, 1]
log_prob    -log-probability of the gold text
teacher     1 - score of a stronger model
rating      1 to 5, by the optimizer
self_paced  error rate of the current beam, from scores that are known anyway
random      a control

A run is a paraphrase of the first instruction, or a sample of the target with a temperature. Everything the target
says here is a target call, and counts. After the survey of Wang, Chen and Zhu (arXiv 2010.13166).
"""

import dataclasses
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bpo_utils import segment
from bpo_utils.chat import wire
from bpo_utils.search import evidence, prompts
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import NO_ANSWER, evaluate, request, scored
from bpo_utils.search.plan import Plan
from bpo_utils.search.propose import DRAWS, Meta, ask
from bpo_utils.search.state import BudgetSpent, Search, completed, start
from bpo_utils.search.task import Mark, Row

if TYPE_CHECKING:
    from bpo_utils.search.methods.curriculum import Settings

SAMPLING = 0.7  # temperature of samples; ours
UNKNOWN = 0.5  # self-paced: error rate of a row that the beam has not seen
MIDDLE = 3.0  # rating of a row for which none could be read
RUNS = ("error_rate", "margin", "entropy")  # measurers that need k runs
SHARES = (*RUNS, "teacher", "self_paced")  # measurers whose values are shares


def cost(settings: "Settings", train: int) -> Plan:
    """Calls that measuring takes at most: k runs of every row, or one, or none."""
    if settings.measurer in RUNS:
        return Plan(settings.k * train, settings.k if settings.runs == "paraphrases" else 0)
    return Plan(train * (settings.measurer in ("log_prob", "teacher")), train * (settings.measurer == "rating"))


def measured(search: Search, settings: "Settings") -> dict[str, float]:
    """The difficulty of every train row, by its id; `self_paced` has none before the search (all the same).

    Raises BudgetSpent, ValueError for a model that cannot do what the measurer needs, and what `chat.complete` raises.
    """
    rows, name = search.task.train, settings.measurer
    if name in RUNS:
        return {id: runs_say(name, marks) for id, marks in runs(search, rows, settings).items()}
    if name == "log_prob":
        return log_prob(search, rows)
    if name == "teacher":
        return teacher(search, rows, settings)
    if name == "rating":
        return rating(search, rows)
    if name == "random":
        return {row.id: lot(row.id, str(search.seed)) for row in rows}
    return length(rows) if name == "length" else self_paced(search, [], rows)


def length(rows: Sequence[Row]) -> dict[str, float]:
    """Words of the input; a Chinese character counts as a word."""
    return {row.id: float(len(segment.words(row.input))) for row in rows}


def runs(search: Search, rows: Sequence[Row], settings: "Settings") -> dict[str, list[Mark]]:
    """The target's marks on every row, by its id, in k runs: paraphrases or samples, as the settings say."""
    found = paraphrased(search, rows, settings) if settings.runs == "paraphrases" else sampled(search, rows, settings.k)
    marks: dict[str, list[Mark]] = defaultdict(list)
    for row, mark in found:
        marks[row.id].append(mark)
    return marks


def paraphrased(search: Search, rows: Sequence[Row], settings: "Settings") -> list[tuple[Row, Mark]]:
    """Marks with k paraphrases of the first instruction. Those that say the same count once; if there is none, the
    first instruction stands for them."""
    from bpo_utils.search import gradients as part

    first, wanted = start(search), settings.model_copy(update={"mc_samples_per_step": settings.k})
    said = part.paraphrases(search, [part.Child(first, first)], wanted)
    tried = part.unique(one.candidate for one in said) or [first]
    evaluate(search, tried, rows)
    return [
        (row, Mark(one.value, one.read, one.unreadable))
        for each in tried
        for row, one in zip(rows, scored(search, each, rows), strict=True)
    ]


def sampled(search: Search, rows: Sequence[Row], k: int) -> list[tuple[Row, Mark]]:
    """Marks of k samples with the first instruction, which are no scores of it: those are greedy."""
    draws = [(row, search.seed * DRAWS + draw) for row in rows for draw in range(k)]
    asked = [
        dataclasses.replace(request(search, start(search), row), temperature=SAMPLING, seed=0, sample=draw)
        for row, draw in draws
    ]
    told = [row for row, _ in draws]
    return list(zip(told, answered(search, told, asked), strict=True))


def runs_say(name: str, marks: Sequence[Mark]) -> float:
    """What runs say of one row: error_rate, margin or entropy, in [0, 1]."""
    if name == "error_rate":
        return 1 - math.fsum(mark.value for mark in marks) / len(marks)
    shares = [count / len(marks) for count in Counter(mark.read for mark in marks).values()]
    if name == "margin":
        return 1 - max(shares)
    return math.fsum(-share * math.log(share) for share in shares) / math.log(max(2, len(marks)))


def log_prob(search: Search, rows: Sequence[Row]) -> dict[str, float]:
    """How unlikely the target finds the gold text with the first instruction, in nats for a token."""
    from bpo_utils.search import likelihood

    first = start(search)
    likelihood.evaluate(search, [first], rows)
    return {row.id: -search.likelihoods[first.id][row.id].value for row in rows}


def teacher(search: Search, rows: Sequence[Row], settings: "Settings") -> dict[str, float]:
    """Errors of a stronger model with the first instruction: `teacher` of the settings, else the optimizer's model."""
    model = settings.teacher or search.roles.optimizer
    if model.provider == "program":
        raise ValueError("the program that stands for the optimizer does not answer tasks; name a model as `teacher`")
    first = start(search)
    marks = answered(search, rows, [dataclasses.replace(request(search, first, row), model=model) for row in rows])
    return {row.id: 1 - mark.value for row, mark in zip(rows, marks, strict=True)}


def rating(search: Search, rows: Sequence[Row]) -> dict[str, float]:
    """The optimizer's rating of every row, 1 to 5; what cannot be read is in the middle."""
    texts = [evidence.NOTHING if search.blind else row.input for row in rows]
    told = [prompts.filled("difficulty_rating", about=search.task.about, input=text) for text in texts]
    answers = ask(search, [Meta("difficulty_rating", text) for text in told], rated, temperature=0.0)
    return {row.id: got[0][0] if got else MIDDLE for row, got in zip(rows, answers, strict=True)}


def rated(reply: str) -> float | None:
    """The rating in a reply, None for anything but a number from 1 to 5."""
    text = next(iter(prompts.tagged(reply, "rating")), "")
    return float(text) if text in ("1", "2", "3", "4", "5") else None


def self_paced(search: Search, beam: Sequence[Candidate], rows: Sequence[Row]) -> dict[str, float]:
    """Mean error of the beam on each row, out of the scores that are known; nothing is asked."""
    found = {}
    for row in rows:
        known = [search.scores[one.id][row.id].value for one in beam if row.id in search.scores.get(one.id, {})]
        found[row.id] = 1 - math.fsum(known) / len(known) if known else UNKNOWN
    return found


def answered(search: Search, rows: Sequence[Row], asked: Sequence[wire.Request]) -> list[Mark]:
    """Marks of answers that are no candidate's score, in one batch and within the budget."""
    if len(asked) > search.left:
        raise BudgetSpent(f"{len(asked)} target calls are wanted, {search.left:g} are left of {search.budget}")
    replies = completed(search, "target", asked)
    return [
        Mark(0.0, "", True) if reply.outcome in NO_ANSWER else search.task.metric(row, reply.text)
        for row, reply in zip(rows, replies, strict=True)
    ]


def ordered(rows: Sequence[Row], hard: Mapping[str, float], hard_first: bool = False) -> list[Row]:
    """Rows from easy to hard, or the other way round; equals by a hash of the id, never by their place in a file."""
    return sorted(rows, key=lambda row: (-hard[row.id] if hard_first else hard[row.id], lot(row.id)))


def lot(id: str, seed: str = "") -> float:
    """A number in [0, 1) that only the id (and a seed) decides."""
    return int.from_bytes(hashlib.sha256(f"{seed} {id}".encode()).digest()[:6]) / 2**48


def agreement(measures: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """Spearman's rank correlation of every two measures on the same rows, by `a, b`; None where one is constant."""
    from scipy.stats import spearmanr

    names, found = list(measures), {}
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            pairs = [(measures[first][id], measures[second][id]) for id in measures[first]]
            constant = any(len(set(column)) < 2 for column in zip(*pairs, strict=True))
            found[f"{first}, {second}"] = None if constant else float(spearmanr(*zip(*pairs, strict=True)).statistic)
    return found
