"""ABO: the prompt is a numbered procedure with a worked example; the step that fails most often is made more explicit.

    p <- a step-by-step procedure; D <- a demonstration that carries out every step of p; score (p, D) on dev
    R times: run a train batch; locate, for each wrong row, the first step that went wrong and how; s <- the step that
             did most often; rewrite s alone, in smaller steps; renew D to follow the new p; score (p, D) on dev
    return the best (p, D) on dev

"Are Large Language Models Good Prompt Optimizers?" (arXiv 2402.02101). No code was released; its prompts and settings
were not seen. From the abstract: the target's behaviour is optimized, in place of reflections on the prompt. From notes
of others on the paper: without the demonstration the target falls below its start; results after steps 0, 1 and 2. From
memory, not checked: the lines of the box. Ours: all numbers but R, the checks, the variants, the seed as a candidate.
"""

import collections
from typing import Literal

from bpo_utils.chat import wire
from bpo_utils.profile import Section
from bpo_utils.search import evidence, procedures, prompts
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import best, errors, evaluate, mean, request
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.propose import Meta, ask
from bpo_utils.search.state import Search, add, note, start, steps
from bpo_utils.search.task import Row

NAME, PAPER, KNOB = "ABO", "arXiv 2402.02101", "rounds"


class Settings(Section):
    rounds: int = 2  # R, as the paper's results (second-hand)
    shown: int = 5  # train rows shown to write the procedure; ours
    batch: int = 32  # B, train rows of a round; ours
    located: int = 4  # e, wrong rows that are looked at in a round; ours
    candidates: int = 1  # rewrites of the failing step in a round, each with its demonstration; more: a variant, ours
    accept: Literal["always", "not_worse"] = "always"  # not_worse: a round counts only if dev does not drop; ours
    demonstration: bool = True  # off: the paper's ablation
    renewed: bool = True  # the demonstration follows each new procedure; off: the first one stays
    keep_seed: bool = True  # the task's first instruction is scored too and may win, as in the other methods; ours
    temperature: float = 0.7  # of the optimizer; ours


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """Calls at most: T = the first ones on dev + R (B + c |dev|), O = 1 + 1 + R (e + 2 c), with a demonstration."""
    target = (1 + settings.keep_seed) * sizes.dev + settings.rounds * cost(settings, sizes.train, sizes.dev)
    asked = settings.located + settings.candidates * (1 + (settings.demonstration and settings.renewed))
    return Plan(target, 1 + settings.demonstration + settings.rounds * asked)


def cost(settings: Settings, train: int, dev: int) -> int:
    """Target calls of one round at most. The row of the demonstration is never run."""
    return min(train - settings.demonstration, settings.batch) + settings.candidates * dev


def run(search: Search, settings: Settings) -> Candidate:
    """The best procedure on dev, with its demonstration (or the first instruction, if nothing was better). Raises what
    `chat.complete` raises."""
    task, pool = search.task, [start(search)] if settings.keep_seed else []
    shown = search.rng.choice(task.train) if settings.demonstration else None  # in no prompt but the demonstration
    current = first(search, shown, settings)
    if current is None:
        search.tell("no reply held a numbered procedure: the first instruction stays")
        return start(search)
    pool.append(current)
    log(search, best(search, pool, task.dev)[0], current)
    rows = [row for row in task.train if row != shown]
    for _ in steps(search, settings.rounds, cost(settings, len(task.train), len(task.dev))):
        batch = search.rng.sample(rows, min(settings.batch, len(rows)))
        new = improved(search, current, batch, shown, settings)
        evaluate(search, new, task.dev)
        for one in best(search, new, task.dev):
            if settings.accept == "always" or mean(search, one, task.dev) >= mean(search, current, task.dev):
                current = one
        pool += new
        log(search, best(search, pool, task.dev)[0], current)
    return best(search, pool, task.dev)[0]


def first(search: Search, shown: Row | None, settings: Settings) -> Candidate | None:
    """The first procedure with its demonstration; None if no reply holds one."""
    rows = [row for row in search.task.train if row != shown]
    meta = question(search, "abo_steps", search.rng.sample(rows, min(settings.shown, len(rows))))
    (replies,) = ask(search, [meta], procedures.written, temperature=settings.temperature)
    return next(iter(born(search, replies, "steps", start(search), meta, shown, settings)), None)


def improved(
    search: Search, current: Candidate, batch: list[Row], shown: Row | None, settings: Settings
) -> list[Candidate]:
    """New procedures: the most frequent failing step of the current one is written anew, of equals the earlier step."""
    missed = errors(search, current, batch)[: settings.located] if batch else []
    metas = [question(search, "abo_locate", [row], current, instruction=current.text) for row in missed]
    corrections = collections.defaultdict(list)
    for answers in ask(search, metas, lambda reply: procedures.located(reply, current.text), temperature=0.0):
        for (step, correction), _ in answers:
            corrections[step].append(correction)
    if not corrections:
        return []
    failing = min(corrections, key=lambda step: (-len(corrections[step]), step))
    told = {"step": str(failing), "corrections": procedures.listed(corrections[failing])}
    meta = Meta("abo_refine", prompts.filled("abo_refine", instruction=current.text, **told))

    def read(reply: str) -> str:
        return procedures.refined(reply, current.text, failing)

    (replies,) = ask(search, [meta], read, settings.candidates, settings.temperature)
    return born(search, replies, f"refine step {failing}", current, meta, shown, settings)


def born(
    search: Search, replies: list, operator: str, parent: Candidate, meta: Meta, shown: Row | None, settings: Settings
) -> list[Candidate]:
    """Candidates of procedures, each with a demonstration of its own, or with its parent's."""
    made = []
    for text, reply in replies:
        fresh = shown is not None and (settings.renewed or not parent.demo)
        demo = demonstration(search, text, shown, parent.demo, settings) if fresh else parent.demo
        made.append(add(search, text, operator, (parent,), reply, demo=demo, meta=meta.version))
    return [one for one in made if one]


def demonstration(search: Search, procedure: str, shown: Row, old: str, settings: Settings) -> str:
    """A demonstration that was checked; "" if every reply was rejected."""
    name, more = ("abo_renew", {"demonstration": old}) if old else ("abo_demonstrate", {})
    form = f"The model is told for its answer: {search.task.form} " if search.task.form else ""
    meta = question(search, name, [shown], instruction=procedure, form=form, **more)

    def read(reply: str) -> str:
        return procedures.worked(reply, procedure, search.task, shown)

    (answers,) = ask(search, [meta], read, temperature=settings.temperature)
    return answers[0][0] if answers else ""


def question(search: Search, name: str, rows: list[Row], candidate: Candidate | None = None, **more: str) -> Meta:
    """A meta-prompt about some rows, with a candidate's answers if there is one."""
    shown = evidence.examples(search, rows, candidate)
    return Meta(name, prompts.filled(name, about=search.task.about, examples=shown, **more))


def log(search: Search, favourite: Candidate, current: Candidate) -> None:
    """Write down the favourite, and how long the current prompt has grown: the tokens of a request without its input,
    estimated."""
    tokens = wire.expected_input(request(search, current, Row("", "", "")))
    note(search, favourite)
    search.trace[-1]["prompt_tokens"] = tokens
    search.tell(f"step {search.step}: {current.id} has about {tokens} tokens")
