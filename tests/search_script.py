"""For tests of search methods: a scripted target and optimizer that keep what they were asked, and the landscape."""

import math
import random
from pathlib import Path

from bpo_utils.chat import Calls
from bpo_utils.profile import Model
from bpo_utils.records import Reply
from bpo_utils.search import landscape, plan, vocabulary
from bpo_utils.search.evaluate import best
from bpo_utils.search.plan import Sizes
from bpo_utils.search.state import Roles, Search, add, start
from bpo_utils.search.task import Mark, Row, Task

TARGET = Model(name="target", provider="mini", model="middle")
OPTIMIZER = Model(name="optimizer", provider="program", model="phrases")
LANDSCAPE = Model(name="landscape", provider="landscape", model="l")
APOLOGY = "I'm sorry, but I can't help with that."


def rows(name, count):
    return tuple(Row(f"{name}{number}", f"question {name}{number}", f"gold {number}") for number in range(count))


def task(train=10, dev=12, test=2, **more):
    """Rows t0 .., d0 .., x0 ..; an answer is its own value."""
    sets = [rows(name, count) for name, count in (("t", train), ("d", dev), ("x", test))]
    more = {"position": "before", "metric": lambda row, text: Mark(float(text), "")} | more
    return Task("scripted", "The model answers.", "Start.", *sets, **more)


class Script:
    """Who answers: `write(number, request)` for the optimizer, `answer(request)` for the target. `batches` holds the
    requests of each call; `known` remembers as the store of calls does; after `stop` new answers the power is cut."""

    def __init__(self, write, answer, known=None, stop=math.inf):
        self.write, self.answer, self.known, self.stop = write, answer, {} if known is None else known, stop
        self.batches, self.new = [], 0

    def __call__(self, requests, calls):
        self.batches.append(list(requests))
        return [Reply(self.reply(one)) for one in requests]

    def reply(self, one):
        if one not in self.known:
            if self.new >= self.stop:
                raise KeyboardInterrupt
            self.new += 1
            self.known[one] = self.write(len(self.known), one) if one.model == OPTIMIZER else self.answer(one)
        return self.known[one]

    def of(self, model, heading=""):
        asked = [one for batch in self.batches for one in batch if one.model == model]
        return [one for one in asked if one.prompt.startswith(heading)]


def scripted(place: Path, write, answer, one=None, script=None, **more):
    """A search whose models are a script, and the script."""
    script = script or Script(write, answer)
    return Search(one or task(), Roles(TARGET, OPTIMIZER, Calls(place / "calls.sqlite"), script), **more), script


def idea(asked):
    """The number of the newest idea that the target is given; 0 without one."""
    found = [int(part.split(".")[0]) for part in asked.prompt.split("Idea ")[1:]]
    return max(found, default=0)


def newest(asked):
    """A target that does better with every newer idea, on every row."""
    return str(idea(asked) / 1_000_000)


def hashed(asked):
    """A target whose every answer is right or wrong at random."""
    return str(random.Random(asked.prompt).randint(0, 1))


def sizes(search):
    return Sizes(len(search.task.train), len(search.task.dev))


def landed(place, seed, budget, blind=False):
    """A search on the landscape with the program as optimizer."""
    roles = Roles(LANDSCAPE, OPTIMIZER, Calls(place / "calls.sqlite"))
    return Search(landscape.task(draw=seed), roles, seed, budget, blind=blind)


def value(candidate):
    """The true accuracy of an instruction on the landscape, with its demonstration as the target reads it."""
    return landscape.value(landscape.phrases_in(candidate.text + candidate.demo))


def found(module, settings, search):
    """The true accuracy of what a method finds on the landscape, its settings fitted to the search's budget."""
    return value(module.run(search, plan.fitted(module, settings, sizes(search), search.budget)))


def chance(search, seeded=True):
    """Random search: instructions of one to five phrases, as many as the budget scores on dev; `seeded`: the first
    instruction is one of them."""
    rng, words = random.Random(search.seed), vocabulary.of("phrases")
    first = start(search)
    pool = [first] if seeded else []
    while (len(pool) + 1) * len(search.task.dev) <= search.budget:
        drawn = rng.sample(landscape.PHRASES, rng.randint(1, 5))
        pool += [one for one in [add(search, words.instruction(drawn, rng), "random")] if one]
    return value(best(search, pool, search.task.dev)[0])
