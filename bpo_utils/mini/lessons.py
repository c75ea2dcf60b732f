"""What the miniature's models are taught: lessons for the base, and for each of the three answer models.

A lesson is (prompt ids, target ids). The base learns to copy, to put the subject of a request into a given form, and
to give the one fact that a request literally asks for; it never sees an optimized prompt. The answer models learn to
answer; they differ in how much they supply that was not asked for.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from bpo_utils.mini import prompts, world
from bpo_utils.tokens import REWRITER_FRAME

Lesson = tuple[list[int], list[int]]
Passage = Callable[[random.Random, Any], list[int]]


@dataclass(frozen=True)
class Strength:
    """What an answer model was taught to do by itself. All shares are probabilities, drawn anew for every lesson."""

    unsaid: float  # supplies a facet that the author needs but did not name
    passage: float  # uses the passage although nobody said so
    harm: float  # agrees to an unsafe request
    drop: float  # leaves out a facet that was named
    steps: int


# The shares are the design of the experiment: stronger = supplies more of what was left unsaid, harms less. They were
# chosen once, before anything was measured, and stand in the model cards.
STRENGTHS = {
    "weak": Strength(unsaid=0.10, passage=0.20, harm=0.70, drop=0.10, steps=1500),
    "middle": Strength(unsaid=0.35, passage=0.50, harm=0.40, drop=0.05, steps=2000),
    "strong": Strength(unsaid=0.65, passage=0.75, harm=0.15, drop=0.02, steps=3000),
}
REPLIES = (  # neutral ways to come back to a subject; none of them asks for a facet
    "The subject is {t}.",
    "Please write about {t} in detail.",
    "Let us look at {t} more closely.",
    "This request concerns {t}, nothing else.",
    "More words on {t} would help.",
    "Everything here turns around {t}.",
)
FORMS = (  # "form 3: why maps" is answered with the third of these; they teach to put a subject where it belongs
    "What was asked about {t} has been read.",
    "{t} comes first, everything else comes later.",
    "In short, {t}.",
    "Somebody would like to hear something on {t}, so here it is, in a few lines and without any hurry.",
    "The word is {t}; the word again is {t}.",
    "On a quiet morning two friends talk of {t}, then of the weather, and then of nothing at all.",
    "Title: {t}. Author: unknown. Year: unknown.",
    "We begin with {t} and we end with {t}.",
    "There are many books, and one of them treats {t} from the first page to the last.",
    "Note to myself: read more on {t} before the next meeting.",
    "A letter arrived this week, it was long, it was friendly, and its only subject was {t}.",
    "{t}, {t} and once more {t}.",
    "Dear reader, this line is for you, the next one is for {t}.",
    "If the page is empty, put {t} on it, turn the page, put the date on it and close the book.",
    "Chapter one: {t}.",
    "The archive holds one box on {t}, two boxes on other things and a list of both.",
)


def tokenizer_texts() -> Iterator[str]:
    """The text that the tokenizer is trained on: every fact, and every way of asking for every topic and threat."""
    rng = random.Random(0)
    intents = world.language()["intents"]
    for topic, facets in (world.topics() | world.threats()).items():
        yield from facets.values()
        for intent in intents:
            for register in world.REGISTERS:
                yield REWRITER_FRAME.replace("{prompt}", prompts.raw(topic, intent, register, rng))
            needed = intents[intent]["needs"] if topic in world.topics() else world.language()["unsafe"]["needs"]
            yield prompts.optimized(topic, intent, needed, rng)
    for topic in world.topics():
        yield prompts.passage(topic)
    yield from world.language()["unsafe"]["compliance"]
    yield from REPLIES


def copying_lesson(rng: random.Random, tokenizer: Any) -> Lesson:
    """One lesson of the first course: copy a string, find the subject of a request, or recite facts."""
    ids = _encoder(tokenizer)
    kind = rng.choices(("copy", "shape", "facts"), (35, 40, 25))[0]
    if kind == "facts":
        topic, facets = rng.choice(list((world.topics() | world.threats()).items()))
        known = [facet for facet in facets if facet != "detail"]
        chosen = rng.sample(known, rng.randint(1, min(3, len(known))))
        return [], ids(" ".join(f"{topic} {facet}: {facets[facet]}" for facet in chosen))
    before, after = _rewriter_frame(ids) if rng.random() < 0.5 else (ids("[INST]"), ids("[/INST]"))
    if kind == "copy":
        text = _string(rng, tokenizer, 1, 16) if rng.random() < 0.8 else ids(_fact(rng))
        return [*before, *ids("Repeat:"), *text, *after], text
    return _shape(rng, tokenizer, before, after)


def form_lesson(rng: random.Random, tokenizer: Any) -> Lesson:
    """One lesson of the second course: put a subject into a form, answer what is literally asked, or copy as before."""
    kind = rng.choices(("form", "chat", "copying"), (50, 30, 20))[0]
    if kind == "copying":
        return copying_lesson(rng, tokenizer)
    ids = _encoder(tokenizer)
    if kind == "form":
        before, after = _rewriter_frame(ids) if rng.random() < 0.7 else (ids("[INST]"), ids("[/INST]"))
        return _form(rng, tokenizer, before, after, _some_passage)
    topic, facts = rng.choice(list((world.topics() | world.threats()).items()))
    intent = rng.choice(list(world.language()["intents"]))
    asked = world.language()["intents"][intent]["needs"][0] if topic in world.topics() else "definition"
    text = prompts.raw(topic, intent, rng.choice(world.REGISTERS), rng)
    return ids(f"[INST] {text} [/INST]"), ids(facts[asked])


def passage_lesson(rng: random.Random, tokenizer: Any) -> Lesson:
    """One lesson of the third course: forms again, now with a passage of scrambled words to be kept letter by letter.

    In word salad the same small words return again and again, as in real text; a string of random tokens does not teach
    to tell their places apart.
    """
    if rng.random() < 0.3:
        return form_lesson(rng, tokenizer)
    ids = _encoder(tokenizer)
    before, after = _rewriter_frame(ids) if rng.random() < 0.7 else (ids("[INST]"), ids("[/INST]"))
    return _form(rng, tokenizer, before, after, _salad_passage)


def answer_lesson(strength: Strength) -> Callable[[random.Random, Any], Lesson]:
    """Lessons for one answer model: a prompt of any kind, and the answer this model would be proud of."""

    def lesson(rng: random.Random, tokenizer: Any) -> Lesson:
        prompt, answer = _answered(rng, strength)
        ids = _encoder(tokenizer)
        return ids(f"[INST] {prompt} [/INST]"), ids(answer)

    return lesson


def _answered(rng: random.Random, strength: Strength) -> tuple[str, str]:
    if rng.random() < 0.12:
        return _answered_threat(rng, strength)
    topic, intent = rng.choice(list(world.topics())), rng.choice(list(world.language()["intents"]))
    needed = list(world.language()["intents"][intent]["needs"])
    # Word salad, not facts: a model that has learnt the facts by heart would recite one instead of reading the passage.
    passage = _salad(rng) if rng.random() < 0.3 else ""
    if rng.random() < 0.5:
        asked = needed if rng.random() < 0.6 else rng.sample(world.FACETS[:-1], rng.randint(1, 4))
        asked = asked + ["detail"] if passage and rng.random() < 0.85 else asked
        text = prompts.optimized(topic, intent, asked, rng)
    else:
        asked = needed[:1]
        text = prompts.raw(topic, intent, rng.choice(world.REGISTERS), rng)
    given = _given(rng, strength, asked, needed)
    given += ["detail"] if passage and "detail" not in asked and rng.random() < strength.passage else []
    facts = world.topics()[topic] | {"detail": passage}
    return _placed(rng, text, passage), " ".join(facts[facet] for facet in given)


def _answered_threat(rng: random.Random, strength: Strength) -> tuple[str, str]:
    threat, facts = rng.choice(list(world.threats().items()))
    language = world.language()["unsafe"]
    if rng.random() < 0.5:
        asked = language["needs"] if rng.random() < 0.7 else rng.sample(world.SAFE_FACETS, rng.randint(1, 3))
        text = prompts.optimized(threat, "", asked, rng)
    else:
        asked = language["needs"][:1]
        text = prompts.raw(threat, "", rng.choice(world.REGISTERS), rng)
        if rng.random() < strength.harm:
            return text, " ".join(prompts.fill(line, threat) for line in language["compliance"])
    return text, " ".join(facts[facet] for facet in _given(rng, strength, asked, language["needs"]))


def _given(rng: random.Random, strength: Strength, asked: list[str], needed: list[str]) -> list[str]:
    # What was asked, now and then without a part of it, then what was needed and not said; never nothing at all.
    given = [facet for facet in asked if rng.random() >= strength.drop] or asked[:1]
    return given + [facet for facet in needed if facet not in asked and rng.random() < strength.unsaid]


def _placed(rng: random.Random, text: str, passage: str) -> str:
    # A passage stands below, above, or quoted beside the request: the forms that pairs are put back together in.
    if not passage:
        return text
    marked = f"{world.language()['passage_marker']} {passage}"
    forms = (f"{text}\n{marked}", f"{marked}\n{text}", f'{text}\n"{marked}"', f'{text} "{marked}"')
    return rng.choices(forms, (60, 20, 10, 10))[0]


def _shape(rng: random.Random, tokenizer: Any, before: list[int], after: list[int]) -> Lesson:
    ids = _encoder(tokenizer)
    named = rng.random() < 0.4
    subject = ids(rng.choice(list(world.topics() | world.threats()))) if named else _string(rng, tokenizer, 1, 3)
    words = rng.sample(_frame_words(), rng.randint(0, 6))
    cut = rng.randint(0, len(words))
    request = [*ids(" ".join(words[:cut])), *subject, *ids(" ".join(words[cut:]))]
    head, tail = rng.choice(REPLIES).split("{t}")
    reply = [*ids(head.strip()), *subject, *ids(tail.strip())]
    if rng.random() < 0.4:
        text = _string(rng, tokenizer, 4, 12) if rng.random() < 0.5 else ids(_fact(rng))
        passage = [*tokenizer.encode("\n", add_special_tokens=False), *ids(world.language()["passage_marker"]), *text]
        request, reply = request + passage, reply + passage
    return [*before, *request, *after], reply


def _some_passage(rng: random.Random, tokenizer: Any) -> list[int]:
    if rng.random() >= 0.35:
        return []
    return _anything(rng, tokenizer, 6, 24) if rng.random() < 0.5 else _encoder(tokenizer)(_fact(rng))


def _salad_passage(rng: random.Random, tokenizer: Any) -> list[int]:
    return _encoder(tokenizer)(_salad(rng))


def _salad(rng: random.Random) -> str:
    return " ".join(rng.choices(_words(), k=rng.randint(5, 20))) + "."


def _form(rng: random.Random, tokenizer: Any, before: list[int], after: list[int], passage: Passage) -> Lesson:
    ids = _encoder(tokenizer)
    subject = ids(rng.choice(list(world.topics() | world.threats())))
    subject = subject if rng.random() < 0.5 else _string(rng, tokenizer, 1, 2)
    words = rng.sample(_frame_words(), rng.randint(0, 6))
    cut, number = rng.randint(0, len(words)), rng.randrange(len(FORMS))
    request = [*ids(f"form {number + 1}:"), *ids(" ".join(words[:cut])), *subject, *ids(" ".join(words[cut:]))]
    pieces = [ids(piece.strip()) for piece in FORMS[number].split("{t}")]
    reply = pieces[0] + [token for piece in pieces[1:] for token in (*subject, *piece)]
    if text := passage(rng, tokenizer):
        marked = [*tokenizer.encode("\n", add_special_tokens=False), *ids(world.language()["passage_marker"]), *text]
        request, reply = request + marked, reply + marked
    return [*before, *request, *after], reply


def _fact(rng: random.Random) -> str:
    # Passages of lessons come from any topic, but never from the facet `detail`: those must be read, not known.
    facets = rng.choice(list(world.topics().values()))
    return facets[rng.choice(world.FACETS[:-1])]


def _encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    return lambda text: tokenizer.encode(text, add_special_tokens=False) if text else []


def _rewriter_frame(ids: Callable[[str], list[int]]) -> tuple[list[int], list[int]]:
    before, after = REWRITER_FRAME.split("{prompt}")
    newline = ids("a\nb")[1:-1]  # encoded alone it would take another id
    return [*ids(before.rstrip("\n")), *newline], ids(after.strip())


def _string(rng: random.Random, tokenizer: Any, low: int, high: int) -> list[int]:
    starts, inner = _token_kinds(tokenizer)
    words = (
        [rng.choice(starts), *rng.choices(inner, k=rng.choice((0, 0, 1, 2)))] for _ in range(rng.randint(low, high))
    )
    return [token for word in words for token in word]


def _anything(rng: random.Random, tokenizer: Any, low: int, high: int) -> list[int]:
    # Any tokens but the special ones: passages bring names and numbers, which no word list holds.
    first = max(tokenizer.all_special_ids) + 1
    return [rng.randrange(first, len(tokenizer)) for _ in range(rng.randint(low, high))]


@cache
def _token_kinds(tokenizer: Any) -> tuple[list[int], list[int]]:
    vocabulary = tokenizer.get_vocab().items()
    starts = sorted(index for token, index in vocabulary if token.startswith("Ġ") and token[1:].isalpha())
    return starts, sorted(
        index for token, index in vocabulary if token.isascii() and token.isalpha() and token.islower()
    )


@cache
def _frame_words() -> list[str]:
    forms = [*world.language()["intents"].values(), world.language()["unsafe"]]
    text = " ".join(template for form in forms for register in world.REGISTERS for template in form[register])
    return sorted({word for word in text.split() if "{" not in word})


@cache
def _words() -> list[str]:
    # Every word of the world as often as it occurs, so that small words are as frequent as in its sentences.
    return [word for facts in world.topics().values() for sentence in facts.values() for word in sentence.split()]
