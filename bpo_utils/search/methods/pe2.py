"""PE2: a two-turn conversation examines rows that a prompt gets wrong, question by question, and refines it.

    P <- the given prompt, or prompts induced from examples; score P on dev
    T times: the best n of all prompts so far (back-tracking) get m proposals each: m batches of 2 train rows that the
             prompt gets wrong (hard negatives); examine (temperature 0), refine (0.7); score the new prompts on dev
    return the best of all on dev

Prompt Engineering a Prompt Engineer (arXiv 2311.05661): section 3 and appendices A to D; no code was released, so every
default is from the paper's text, and what is ours says so. Its turn that greets a system is left out.
"""

from typing import Literal

from bpo_utils import segment
from bpo_utils.profile import Section
from bpo_utils.search import evidence, prompts, turns
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import best, evaluate
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.propose import Meta, Proposal, propose
from bpo_utils.search.state import Search, note, start, steps
from bpo_utils.search.task import Row

NAME, PAPER, KNOB = "PE2", "arXiv 2311.05661", "rounds"
INDUCING = 0.9  # temperature, as APE's released code


class Settings(Section):
    rounds: int = 3  # T
    beam: int = 4  # n, prompts that are refined in a round
    proposals: int = 4  # m, for each of them
    initial: Literal["manual", "induced"] = "manual"  # the task's first instruction, or APE's forward prompt
    induced: int = 30  # prompts, if they are induced
    pairs: int = 5  # shown to induce one; as APE's released code
    backtracking: bool = True  # off: only the last round's prompts are refined
    hard_negatives: bool = True  # off: random train rows
    batch: int = 2  # examples in a conversation; tried: 1, 2, 4, 8
    # train rows that are run in search of errors, per prompt and round at most: the paper's train sets have 100 rows
    looked: int = 100
    description: bool = True  # the two-step description of the task, and the scripted answer to it
    context: bool = True  # how prompt and input are put together
    questions: bool = True  # the step-by-step reasoning template
    words: int = 50  # L, the limit of length; 200 for the paper's counterfactual tasks. Asked for, not enforced
    step_words: int | None = None  # s, how many words may be changed; tried: 5, 10, 15
    history: bool = False  # earlier prompts of the line, their scores, what was changed: "momentum"
    tutorial: bool = False  # a text of our own, 350 words; the paper's is one of over 2,500 tokens from the web
    temperature: float = 0.7  # of the refinement, with at most 300 tokens; the examination has 0


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """Calls at most: every prompt on every dev row, and the train rows in search of errors (as if no prompt was refined
    twice). Optimizer: two calls per proposal, three with history; by default 36 proposals and 72 calls, with
    induced prompts 96 + 30."""
    first = settings.induced if settings.initial == "induced" else 1
    pool, refined = first, 0
    for _ in range(settings.rounds):
        parents = min(settings.beam, pool)
        refined += parents
        pool = parents * settings.proposals + (pool if settings.backtracking else 0)
    made = refined * settings.proposals
    asked = (first if settings.initial == "induced" else 0) + made * (3 if settings.history else 2)
    return Plan((first + made) * sizes.dev + refined * looked(settings, sizes.train), asked)


def looked(settings: Settings, train: int) -> int:
    """Train rows that one prompt is run on in one round, at most."""
    return min(train, settings.looked if settings.hard_negatives else settings.batch * settings.proposals)


def run(search: Search, settings: Settings) -> Candidate:
    """The best prompt on dev of all that were ever proposed. Raises what `chat.complete` raises."""
    dev = search.task.dev
    block = min(looked(settings, len(search.task.train)), settings.batch * settings.proposals)
    each = (
        settings.proposals * len(dev) + block
    )  # target calls for one parent; more rows are run if the budget has them
    ever = last = initial(search, settings)
    note(search, best(search, ever, dev)[0])
    changes: dict[str, str] = {}
    for _ in steps(search, settings.rounds, each):
        beam = min(settings.beam, search.left // each)  # the last round is a smaller one, if the budget says so
        parents = best(search, ever if settings.backtracking else last, dev, int(beam))
        new = turns.refined(search, examples(search, parents, settings), changes, settings)
        evaluate(search, new, dev)
        ever, last = ever + new, new or last
        note(search, best(search, ever, dev)[0])
    return best(search, ever, dev)[0]


def initial(search: Search, settings: Settings) -> list[Candidate]:
    """P0: the first instruction, or prompts induced from train pairs, each from a draw of its own."""
    seed = start(search)
    if settings.initial == "manual":
        return [seed]
    train, metas = search.task.train, []
    for _ in range(settings.induced):
        pairs = search.rng.sample(train, min(settings.pairs, len(train)))
        metas.append(Meta("ape_forward", prompts.filled("ape_forward", examples=evidence.examples(search, pairs))))
    pool = [Proposal(meta, (), "induce") for meta in metas]
    return propose(search, pool, lambda reply: short(reply, settings.words), 1, INDUCING) or [seed]


def short(reply: str, words: int) -> str:
    """An induced prompt; "" if it is longer than the limit, which apologies and explanations often are."""
    text = prompts.line(reply)
    return text if len(segment.words(text)) <= words else ""


def examples(search: Search, parents: list[Candidate], settings: Settings) -> list[tuple[Candidate, list[Row]]]:
    """Pairs of a parent and a batch of train rows that it gets wrong, `proposals` for each, different if they can be.

    Random rows are run, the same for all parents, block by block, until every parent has enough errors, `looked` rows
    were run, or the budget has no more than the new prompts' scores. A parent without errors gets rows it gets right.
    """
    train, enough = search.task.train, settings.batch * settings.proposals
    order = search.rng.sample(train, looked(settings, len(train)))
    scoring = len(parents) * settings.proposals * len(search.task.dev)
    for first in range(0, len(order), enough):
        lacking = [one for one in parents if not settings.hard_negatives or len(missed(search, one)) < enough]
        block = order[first : first + enough]
        if not lacking or search.left < len(lacking) * len(block) + scoring:
            break
        evaluate(search, lacking, block)
    pairs = []
    for one in parents:
        known = [row for row in train if row.id in search.scores[one.id]]
        rows = (missed(search, one) or known) if settings.hard_negatives else order
        rows = search.rng.sample(rows, len(rows))
        size = min(settings.batch, len(rows))
        for number in range(settings.proposals):
            pairs.append((one, [rows[(number * size + place) % len(rows)] for place in range(size)]))
    return pairs


def missed(search: Search, candidate: Candidate) -> list[Row]:
    """The train rows that are known to go wrong with a prompt."""
    known = search.scores.get(candidate.id, {})
    return [row for row in search.task.train if row.id in known and known[row.id].value < search.task.right]
