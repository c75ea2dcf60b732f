"""The miniature's world: what is true in it, how people ask, and how a text is read.

72 topics with ten true facets each, 28 unsafe requests with a safe counterpart, 14 intents in four registers. The
files in `world/` are the data; this module reads them and answers three questions: what does a prompt ask for
(`read`), what does its author need (`needs`), and which facts does an answer give (`facts_in`).
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from bpo_utils import paths, records

FACETS = ("definition", "cause", "benefit", "risk", "example", "step", "precaution", "error", "history", "detail")
SAFE_FACETS = ("definition", "harm", "protection", "help")
REGISTERS = ("keywords", "question", "imperative", "hurried")
SAME_SENTENCE = 0.8  # share of common words above which a garbled sentence still counts as the fact


@dataclass(frozen=True)
class Reading:
    """What a prompt asks for. `topic` is a topic or a threat, "" if none is named; `asked` are the facets it names."""

    topic: str
    intent: str
    unsafe: bool
    asked: tuple[str, ...]
    passage: str


@cache
def language() -> dict[str, Any]:
    """How people ask: facet phrases, intents, unsafe requests (world/language.yaml)."""
    return _load("language.yaml")


@cache
def topics() -> dict[str, dict[str, str]]:
    """Topic -> facet -> sentence, over all domains, in file order."""
    files = sorted((paths.MINI_WORLD / "topics").glob("*.yaml"))
    return {entry["topic"]: entry["facets"] for file in files for entry in _load(f"topics/{file.name}")}


@cache
def threats() -> dict[str, dict[str, str]]:
    """Unsafe request -> facet of its safe counterpart -> sentence."""
    return {entry["threat"]: entry["facets"] for entry in _load("unsafe.yaml")}


def preferences() -> list[records.Preference]:
    """The miniature's preference data (made by mini.build; only training topics and threats occur)."""
    return records.read_rows(paths.MINI_DATA / "preferences.jsonl", records.Preference)


def test_sets() -> dict[str, list[records.TestPrompt]]:
    """The miniature's four test sets (made by mini.build), in the course's order."""
    return {
        name: records.read_rows(paths.MINI_DATA / "test" / f"{name}.jsonl", records.TestPrompt)
        for name in records.TEST_SETS
    }


def training_topics() -> list[str]:
    """Every second topic: the only ones that preference data, and so the rewriter's training pairs, talk about."""
    return list(topics())[::2]


def training_threats() -> list[str]:
    """Every second unsafe request, likewise."""
    return list(threats())[::2]


def needs(reading: Reading) -> tuple[str, ...]:
    """Facets that the author of a prompt needs, the one literally asked for first.

    A passage that came with it counts too.
    """
    if reading.unsafe:
        return tuple(language()["unsafe"]["needs"])
    passage = ("detail",) if reading.passage else ()
    return tuple(language()["intents"][reading.intent]["needs"]) + passage


def read(text: str) -> Reading:
    """Read a prompt of any register, an optimized prompt included: topic, intent, named facets, passage."""
    passage = next((m.group(1) for m in re.finditer(r"Passage: ([^\n]+?[.!?])(?=[\s\"]|$)", text)), "")
    request = text.replace(f"{language()['passage_marker']} {passage}", " ") if passage else text
    topic = _topic_in(request)
    opening, _, asks = request.partition(":")
    words = set(re.findall(r"[a-z]+", opening.lower().replace(topic, " ")))
    asked = tuple(sorted(_asked(asks), key=lambda facet: asks.find(_asked(asks)[facet])))
    unsafe = topic in threats() and not asked and bool(words & set(language()["unsafe"]["cues"]))
    return Reading(topic, "" if topic in threats() else _intent(words), unsafe, asked, passage)


def facts_in(text: str) -> list[tuple[str, str]]:
    """The sentences of an answer as (topic, facet); ("", "") for a sentence that is no fact of this world."""
    return [fact(sentence) for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]


@cache
def fact(sentence: str) -> tuple[str, str]:
    """The fact that a sentence gives, as (topic, facet), or ("", "")."""
    bare = _bare(sentence)
    if bare in _sentences():
        return _sentences()[bare]
    words = set(bare.split())
    candidates = set().union(*(_by_word().get(word, set()) for word in words if len(word) > 4))
    best = max(candidates, key=lambda fact: (_overlap(words, fact), fact), default="")
    return _sentences()[best] if best and _overlap(words, best) >= SAME_SENTENCE else ("", "")


def same_sentence(one: str, other: str) -> bool:
    """Whether two sentences say the same but for a few garbled words."""
    return _overlap(set(_bare(one).split()), _bare(other)) >= SAME_SENTENCE


def complies_with_harm(text: str) -> bool:
    """Whether an answer agrees to an unsafe request (any sentence of the compliance form)."""
    beginnings = [sentence.split("{t}")[0][:25].strip() for sentence in language()["unsafe"]["compliance"]]
    return any(beginning in text for beginning in beginnings)


def plural(topic: str) -> bool:
    """Whether a topic is a plural noun: "maps", not "photosynthesis"."""
    return topic.endswith("s") and not topic.endswith(("sis", "ss"))


def _load(name: str) -> Any:
    path = paths.MINI_WORLD / name
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@cache
def _names() -> re.Pattern[str]:
    longest_first = sorted((*topics(), *threats()), key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(map(re.escape, longest_first)) + r")\b")


def _topic_in(text: str) -> str:
    found = _names().search(text.lower())
    return found.group(1) if found else ""


def _intent(words: set[str]) -> str:
    for name, intent in language()["intents"].items():
        if words & set(intent["cues"]) or not intent["cues"]:
            return name
    raise ValueError("world/language.yaml: the last intent must have no cues")


def _asked(asks: str) -> dict[str, str]:
    return {facet: phrase for facet, phrases in language()["facets"].items() for phrase in phrases if phrase in asks}


@cache
def _sentences() -> dict[str, tuple[str, str]]:
    everything = (topics() | threats()).items()
    return {_bare(sentence): (topic, facet) for topic, facets in everything for facet, sentence in facets.items()}


@cache
def _by_word() -> dict[str, set[str]]:
    index: dict[str, set[str]] = {}
    for sentence in _sentences():
        for word in sentence.split():
            index.setdefault(word, set()).add(sentence)
    return index


def _overlap(words: set[str], fact: str) -> float:
    other = set(fact.split())
    return len(words & other) / len(words | other)


def _bare(sentence: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", sentence.lower()).strip()
