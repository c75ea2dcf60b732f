"""A program in the optimizer's place, so that the course runs offline. It is no language model, and is named a program.

It sees the meta-prompt and nothing else. What it does, by the meta-prompt's heading, is what the method hopes of a
model: it names what the shown answers lack, and asks for that; where it is shown scores, it keeps what the better
instructions share. Its attention is limited (it takes up one to three things at a time), it draws at random where the
evidence leaves a choice, and now and then it breaks the asked form, as models do. Without evidence it can only guess.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bpo_utils.chat import wire
from bpo_utils.search import prompts, vocabulary
from bpo_utils.search.vocabulary import Vocabulary

MALFORMED = 0.03  # of the replies lack their closing tags; ours, the miniature's teacher breaks 4 %
KNOWN_ANSWERS = ("output", "reference")


@dataclass(frozen=True)
class Shown:
    """What a meta-prompt shows, read out of it; `ideas` are those that the current instruction asks for."""

    words: Vocabulary
    rng: random.Random
    text: str
    current: str
    ideas: list[str]
    count: int
    earlier: str


def reply(asked: wire.Request) -> str:
    """The program's reply to one request. Raises ValueError for a heading that it does not know."""
    name = f"{asked.sample}|{asked.earlier}|{asked.prompt}"
    rng = random.Random(hashlib.sha256(name.encode()).hexdigest())
    heading = asked.prompt.partition("\n")[0].lstrip("# ").strip()
    from bpo_utils.search.program_replies import REPLIES

    if heading not in REPLIES:
        raise ValueError(f"the program has no reply to the heading {heading!r}; it knows {', '.join(REPLIES)}")
    words = vocabulary.of(asked.model.model)
    current = next(iter(prompts.tagged(asked.prompt, "instruction")), "")
    wanted = re.search(r"\b(?:Write|Give|Name) (\d+) ", asked.prompt)
    count = int(wanted.group(1)) if wanted else 1
    earlier = "\n".join(text for role, text in asked.earlier if role == "assistant")
    text = REPLIES[heading](Shown(words, rng, asked.prompt, current, words.found(current), count, earlier))
    return re.sub(r"</\w+>", "", text) if rng.random() < MALFORMED else text


def examples(shown: Shown) -> list[dict[str, str]]:
    """The examples of a meta-prompt: input, output and, where it is shown, reference of each."""
    found = []
    for block in prompts.tagged(shown.text, "example"):
        parts = {tag: next(iter(prompts.tagged(block, tag)), "") for tag in ("input", *KNOWN_ANSWERS)}
        found.append(parts)
    return found


def lacking(shown: Shown) -> Counter[str]:
    """How many of the shown answers lack each idea that their reference gives."""
    counts: Counter[str] = Counter()
    for one in examples(shown):
        counts.update(shown.words.missing(one["input"], one["output"], one["reference"]))
    return counts


def needed(shown: Shown) -> Counter[str]:
    """How many of the shown references (or, in pairs, outputs) give each idea."""
    counts: Counter[str] = Counter()
    for one in examples(shown):
        given = shown.words.given(one["input"], one["reference"] or one["output"])
        counts.update(list(dict.fromkeys(idea for idea in given if idea)))  # in order: ties are taken as they come
    return counts


def spoiled(shown: Shown) -> bool:
    """Whether most shown answers hold something wrong: the instruction may ask for too much."""
    wrong = ["" in shown.words.given(one["input"], one["output"]) for one in examples(shown)]
    return sum(wrong) * 2 > len(wrong) > 0


def drawn(shown: Shown, counts: Counter[str], most: int) -> list[str]:
    """Up to `most` different ideas, each drawn by its count; without any evidence, one at random of all."""
    if not counts:
        return [shown.rng.choice(shown.words.ideas)]
    left, found = dict(sorted(counts.items())), []
    while left and len(found) < most:
        (one,) = shown.rng.choices(list(left), list(left.values()))
        found.append(one)
        del left[one]
    return found


def written(shown: Shown, ideas: Sequence[str]) -> str:
    """An instruction that asks for these ideas, each once; the first instruction of all if there are none."""
    unique = list(dict.fromkeys(ideas))
    return shown.words.instruction(unique, shown.rng) if unique else shown.current


def between(tag: str, texts: Sequence[str]) -> str:
    """Texts between tags, one below the other."""
    return "\n".join(f"<{tag}>{text}</{tag}>" for text in texts)
