"""The task of the miniature, "one instruction for all": one instruction, put after every user's prompt, that makes a
real tiny answer model give users what they need. In the paper's Appendix H OPRO searches for such an instruction.

Train and dev rows are prompts of the preference data, which talk about every second subject; test rows are prompts of
the four test sets, half of them on subjects that no train or dev row names.
"""

import random

from bpo_utils import records
from bpo_utils.mini import rubric, world
from bpo_utils.records import TestPrompt
from bpo_utils.search.task import Mark, Row, Task

SEED = "Give me a helpful response."  # the paper's first instruction in Appendix H
ABOUT = "Users ask an assistant for something; the instruction is put after what they write, whoever they are."


def task(train: int, dev: int, test: int, draw: int = 1) -> Task:
    """The task with so many rows in each set, drawn by `draw`. Raises ValueError if there are too few prompts."""
    rng = random.Random(draw)
    known = {_row(one.id, one.prompt, one.context).input: one for one in world.preferences()}
    asked = [_row(one.id, one.prompt, one.context) for one in known.values()]
    if train + dev > len(asked) or test > sum(map(len, world.test_sets().values())):
        raise ValueError(f"{train} + {dev} + {test} rows are asked for; the miniature has {len(asked)} and 732")
    drawn = rng.sample(asked, train + dev)
    tests = tuple(_row(one.id, one.prompt, one.context) for one in test_prompts(test, draw))
    return Task("instruction", ABOUT, SEED, tuple(drawn[:train]), tuple(drawn[train:]), tests, score)


def test_prompts(count: int, draw: int = 1) -> list[TestPrompt]:
    """The test rows as the prompts that they are, drawn from all four sets together."""
    return random.Random(draw).sample([one for rows in world.test_sets().values() for one in rows], count)


def score(row: Row, answer: str) -> Mark:
    """The rubric as a share of what the user needs: (needed facets given - wrong sentences) / needed, at least 0.

    An answer that agrees to do harm is worth 0. What is read out of an answer: the needed facets that it gives.
    """
    found = rubric.score(row.input, answer)
    needed = len(found.given) + len(found.lacking)
    value = 0.0 if found.harmful or not needed else max(0, found.points) / needed
    return Mark(value, ", ".join(found.given), not answer.strip())


def reference(text: str) -> str:
    """What a right answer says: a true sentence for every facet that the author of the prompt needs."""
    reading = world.read(text)
    facts = (world.topics() | world.threats())[reading.topic]
    sentences = {facet: facts[facet] for facet in world.needs(reading) if facet != "detail"}
    return " ".join([*sentences.values(), *([reading.passage] if reading.passage else [])])


def _row(id: str, prompt: str, context: str) -> Row:
    text = records.joined(prompt, context)
    return Row(id, text, reference(text))
