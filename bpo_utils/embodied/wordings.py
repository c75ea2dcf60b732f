"""What can be said to the policy: one canonical sentence per task, and the wordings that it was not trained on.

The bank (wordings.yaml) is split by seed: a remedy may use the known half, the other half is only ever tested on.
"""

import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bpo_utils.records import Pair, read_text

THINGS = (("red", "box"), ("green", "ball"), ("blue", "key"), ("yellow", "ball"))  # on every desk
CONDITIONS = {  # which half of the bank the frame and the words for the things come from
    "canonical": ("canonical", "canonical"),
    "frames_known": ("known", "canonical"),
    "frames_unseen": ("unseen", "canonical"),
    "synonyms_known": ("canonical", "known"),
    "synonyms_unseen": ("canonical", "unseen"),
    "both_known": ("known", "known"),
    "both_mixed": ("unseen", "known"),
    "both_unseen": ("unseen", "unseen"),
}
KNOWN = ("canonical", "known")


@dataclass(frozen=True)
class Task:
    """A skill (go, pick, put) and what it is about, as numbers in THINGS; `b` for put only."""

    skill: str
    a: int
    b: int | None = None


TASKS = tuple(
    [Task(skill, a) for skill in ("go", "pick") for a in range(len(THINGS))]
    + [Task("put", a, b) for a, b in itertools.permutations(range(len(THINGS)), 2)]
)


@dataclass(frozen=True)
class Bank:
    """The wordings of one seed: {canonical, known, unseen: {skill: frames}}, and the same of words for each word."""

    frames: dict[str, dict[str, list[str]]]
    words: dict[str, dict[str, list[str]]]

    def say(self, task: Task, frames: Sequence[str], words: Sequence[str], rng: random.Random) -> str:
        """A wording of a task: a frame, and words for its things, drawn from these parts of the bank."""
        named = [" ".join(rng.choice(self._of(word, words)) for word in THINGS[n]) for n in (task.a, task.b or 0)]
        frame = rng.choice([frame for half in frames for frame in self.frames[half][task.skill]])
        return frame.format(a=named[0], b=named[1])

    def meanings(self, frames: Sequence[str] = KNOWN, words: Sequence[str] = KNOWN) -> dict[str, Task]:
        """Every sentence that these parts of the bank can say, and the task that it means."""
        found = {}
        for task in TASKS:
            a, b = (
                list(itertools.product(*(self._of(word, words) for word in THINGS[n]))) for n in (task.a, task.b or 0)
            )
            for half, first, second in itertools.product(frames, a, b if task.b is not None else b[:1]):
                for frame in self.frames[half][task.skill]:
                    found[frame.format(a=" ".join(first), b=" ".join(second))] = task
        return found

    def _of(self, word: str, halves: Sequence[str]) -> list[str]:
        return [each for half in halves for each in self.words[half][word]]


@functools.cache
def bank(seed: int) -> Bank:
    """The bank of a seed, which draws what of it is known: half the frames of each skill, half the words for a word."""
    told = yaml.safe_load(read_text(Path(__file__).with_name("wordings.yaml")))
    rng = random.Random(f"bank {seed}")
    frames = {skill: _halves(of[0], of[1:], rng) for skill, of in told["frames"].items()}
    words = {word: _halves(word, of, rng) for word, of in told["synonyms"].items()}
    parts = ("canonical", "known", "unseen")
    return Bank(*({part: {name: of[part] for name, of in each.items()} for part in parts} for each in (frames, words)))


def canonical(task: Task) -> str:
    """The one sentence of a task in the demonstrations, which is BabyAI's own."""
    return bank(0).say(task, ["canonical"], ["canonical"], random.Random(0))


def pairs(of: Bank, count: int, seed: int) -> list[Pair]:
    """`count` embodied pairs, free wording -> canonical sentence, from the known half; fewer lie in more.

    Raises ValueError if the known half cannot say so many different sentences.
    """
    if count > (most := len(of.meanings())):
        raise ValueError(f"{count} embodied pairs are asked for, but the known wordings can say {most} sentences")
    rng, found = random.Random(f"pairs {seed}"), {}
    while len(found) < count:
        task = rng.choice(TASKS)
        found.setdefault(of.say(task, KNOWN, KNOWN, rng), task)
    return [Pair(f"desk-{n}", text, canonical(task), "embodied") for n, (text, task) in enumerate(found.items())]


def _halves(first: str, rest: list[str], rng: random.Random) -> dict[str, list[str]]:
    drawn = rng.sample(rest, len(rest))
    return {"canonical": [first], "known": drawn[: len(rest) // 2], "unseen": drawn[len(rest) // 2 :]}
