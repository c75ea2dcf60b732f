"""The rules that find strategies and errors in a rewrite: word lists and differences, each finding with its evidence.

The paper (section 5, appendix I) names four strategies and three error types and gives no rule; these are ours. They
read the original, the rewrite and the passage of the original, and nothing else: not the responses, from which a
person tells where a rewrite's additions come from. English only. They were written on the first half of the labelled
sample and on unlabelled rows (`strategies.agreement` has what came of it); a changed rule needs a fresh held-out half.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bpo_utils import drift

STRATEGIES = ("explanation", "elaboration", "hints", "safety")
ERRORS = ("over_specified", "inconsistent", "context_dropped")

STOP = set(
    re.findall(  # words that say little of the subject
        r"\w+",
        "a an the this that these those it its i me my we our you your he she they them their his her is are was were "
        "be been being am do does did have has had can could will would shall should may might must of in on at to for "
        "from by with about as into than then so and or but if not no there here what which who whom whose when where "
        "why how all any some each more most other such own same too very just also please up out over under between "
        "through ",
    )
)
# asking for a why-answer in other words ("explain why" for "why") asks nothing new
ASKS_WHY = r"\b(?:why|how come|how (?:do|does|did|can|could|to|should|would)|explain\w*|explanation|reasons?)\b"
EXPLAIN = (
    r"\b(?:step[- ]by[- ]step|steps|explain\w*|explanations?|guide|guidance|tutorial|reasons?|reasoning|rationale|"
    r"walk (?:me|us) through|(?:describe|discuss|mention|show|explore) how|"
    r"instructions (?:on|for|to))\b"
)
QUALITY = (
    r"\b(?:accurate(?:ly)?|effective(?:ly)?|efficient(?:ly)?|detailed|in detail|comprehensive|thorough(?:ly)?|specific|"
    r"clear(?:ly)?|concise(?:ly)?|brief(?:ly)?|short|in-depth|informative|engaging|creative(?:ly)?|"
    r"compelling|descriptive|relevant|coherent|complete|precise(?:ly)?|well-\w+|high-quality|cozy|vivid|balanced|"
    r"unique|original|interesting|helpful|practical|professional|formal|friendly|simple terms|examples?)\b"
)
DEMAND = (
    r"\b(?:includ(?:e|ing)|ensure|make sure|be sure to|remember to|"
    r"(?<=[.!?] )provide|(?<=[.!?] please )provide|mention(?:ing)?|specify|highlight(?:ing)?|"
    r"emphasi[sz]e|cover(?:ing)?|clarify|describe|discuss(?:ing)?|compare|summari[sz]e|list|consider|use|avoid|"
    r"should (?:be|include|contain|have|cover|use|define)|at least|in the format|separated by|"
    r"(?:say|state|name|tell|give|add) (?:what|how|why|an?|one|the))\b"
)
FURTHER = r"(?:\band|,|\bor)\s+(?:what|how|why|when|where|who|which|whether|its|their|then)\b|\bor \w+"
POINTS = (
    r"\b(?:such as|e\.g\.|for example|for instance|includ(?:e|ing)|(?-i:like (?=[A-Z]))|using|mention(?:ing)?|"
    r"covering|highlight(?:ing)?|should)\b"
)
CRITERION = r"\b(?:based on|focus(?:ing)? on|consider(?:ing)?|tak(?:e|ing) into account)\b"
SAFE = (
    r"\b(?:safe|safely|safety|legal|legally|lawful|ethical(?:ly)?|unethical|harmless|harm|respect|respectful(?:ly)?|"
    r"responsibl[ey]|inclusive|non-violent|appropriate(?:ly)?|inappropriate|offensive|discriminat\w+|stereotyp\w+|"
    r"prejudice|without (?:harming|hurting|misleading|offending)|(?:nobody|no one) (?:is|gets) (?:hurt|harmed)|"
    r"consent|privacy)\b"
)
HARM = (
    r"\b(?:illegal\w*|steal\w*|rob|sneak\w*|hack\w*|kill\w*|murder\w*|poison\w*|bombs?|weapons?|drugs?|fuck\w*|shit\w*|"
    r"bitch\w*|asshole\w*|sex\w*|sleep with|dirty|hurt\w*|harm\w*|hate\w*|attack\w*|abus\w+|cheat\w*|trick|tricking|"
    r"lie to|scam\w*|fraud\w*|forge\w*|fake|spy\w*|stalk\w*|bully\w*|insult\w*|disturb|revenge|racis\w+|stupid|idiots?|"
    r"ugly|without getting caught|get away with|blackmail\w*|torture\w*)\b"
)
SHORT, LONG = (
    r"\b(?:short|brief(?:ly)?|concise(?:ly)?|simple)\b",
    r"\b(?:detailed|comprehensive|lengthy|long|in-depth)\b",
)
ASKING = r"\b(?:who|whom|whose|which|when|where|why|how)\b"  # "what" asks for anything
LEAST_POINTS, MANY_ADDED = 2, 12  # new content words after a cue, and without one, that make a hint
LEAST_KEPT = 0.3  # share of the original's content words; below it another thing is asked
LEAST_IN_SENTENCE, LEAST_KEPT_OF_SENTENCE = 4, 0.34  # content words of a sentence, and the share that must be kept


class Found(NamedTuple):
    """What the rules found; `evidence`: for each class "rule: words"; `applies`: False for mostly Chinese text."""

    strategies: tuple[str, ...]
    errors: tuple[str, ...]
    evidence: dict[str, str]
    applies: bool = True


class Texts(NamedTuple):
    """The texts of one labelled row: instruction, optimized prompt, and the passage kept apart (empty if none)."""

    before: str
    after: str
    context: str = ""


def classify(before: str, after: str, source_context: str = "") -> Found:
    """Strategies and errors of one rewrite, each with its evidence. `source_context`: a passage outside both texts.

    Not exclusive; nothing found means unchanged or only reworded. For mostly Chinese text `applies` is False.
    """
    if drift.mostly_han(before) or drift.mostly_han(after):
        return Found((), (), {}, applies=False)
    text = Texts(" ".join(before.split()), " ".join(after.split()), source_context)
    asks = not drift.answered(before, after)  # a reply to the prompt is no way of asking
    evidence = {name: words for name, rule in STRATEGY_RULES.items() if asks and (words := rule(text))}
    strategies = tuple(evidence)
    # what a safety rewrite takes away or turns round is its purpose and no error
    rules = {name: ERROR_RULES[name] for name in ERRORS if "safety" not in strategies or name == "over_specified"}
    given = Texts(before, after, source_context)  # with its lines: a list's items are sentences of their own
    evidence |= {name: words for name, rule in rules.items() if (words := rule(given))}
    return Found(strategies, tuple(name for name in ERRORS if name in evidence), evidence)


def _explanation(text: Texts) -> str:
    new = _new(EXPLAIN, text)
    if re.search(ASKS_WHY, text.before, re.IGNORECASE):
        new = [cue for cue in new if cue not in ("explain", "reasons", "reason")]
    return _told("asks for reasons or steps", new)


def _elaboration(text: Texts) -> str:
    resolved = [word for word in _added(text._replace(context="")) if _stem(word) in _stems(text.context)]
    return (
        _told("adds a quality", _new(QUALITY, text))
        or _told("adds a demand", _new(DEMAND, text))
        or _told("adds a part", _new(FURTHER, text))
        or _told("names what the passage holds", resolved)
    )


def _hints(text: Texts) -> str:
    added = [word for word in _added(text) if not re.fullmatch(f"{QUALITY}|{DEMAND}|{SAFE}", word)]
    for cue in (criteria := _new(CRITERION, text)) + _new(POINTS, text):
        following = _words(text.after.lower().split(cue, 1)[1])
        if len(points := [word for word in added if word in following]) >= (1 if cue in criteria else LEAST_POINTS):
            return _told(f"names points after {cue!r}", points)
    return _told("adds much content", added) if len(added) >= MANY_ADDED else ""


def _safety(text: Texts) -> str:
    harm = Counter(_found(HARM, text.before)) - Counter(_found(HARM, text.after))
    return _told("adds a safeguard", _new(SAFE, text)) or _told("takes out", list(harm))


def _over_specified(text: Texts) -> str:
    after = re.sub(r"\(?\b(?:such as|e\.g\.|for example|like|including)[^.;)]*", "", text.after)
    quoted = drift.lost_quoted(after, f"{text.before} {text.context}")
    numbers = drift.lost_numbers(after, f"{text.before} {text.context}")
    names = drift.lost_names(after, f"{text.before} {text.context}")
    return (
        _told("fixes a criterion", _new(r"\bbased on (?:their|its|the) \w+", text))
        or _told("fixes a number", numbers)
        or _told("fixes names in the solution", [f"{name!r}" for name in quoted])
        or _told("narrows to", names)
    )


def _inconsistent(text: Texts) -> str:
    lost, new = _new(ASKING, Texts(text.after, text.before)), _new(ASKING, text)
    kept, of = _kept(text.before, f"{text.after} {text.context}")
    turned = [*_found(SHORT, text.before), *_new(LONG, text)] if _found(SHORT, text.before) else []
    return (
        _told("answers instead of asking", [text.after[:20]] if drift.answered(text.before, text.after) else [])
        or _told("asks another length", turned if len(turned) > len(_found(SHORT, text.before)) else [])
        or _told("asks another question", [f"{lost[0]} became {new[0]}"] if lost and new else [])
        or _told("keeps little", [f"{kept} of {of} content words"] if kept < LEAST_KEPT * of else [])
    )


def _context_dropped(text: Texts) -> str:
    sentences = [part for part in re.split(r"(?<=[.!?])\s+|\n+", text.before.strip()) if part.strip()]
    dropped = []
    for sentence in sentences if len(sentences) > 1 else []:
        kept, of = _kept(sentence, text.after)
        if of >= LEAST_IN_SENTENCE and kept < LEAST_KEPT_OF_SENTENCE * of:
            dropped.append(f"{' '.join(sentence.split()[:4])} ...")
    lost = [
        what for find in drift.LOSSES.values() if find is not drift.lost_names for what in find(text.before, text.after)
    ]
    return _told("a sentence is gone", dropped) or _told("given and gone", lost)


def _told(rule: str, words: Sequence[str]) -> str:
    return f"{rule}: {', '.join(words[:6])}" if words else ""


def _found(pattern: str, text: str) -> list[str]:
    return [match[0].lower() for match in re.finditer(pattern, text, re.IGNORECASE)]


def _new(pattern: str, text: Texts) -> list[str]:
    """What the pattern finds in the rewrite more often than in the original and its passage."""
    return list(Counter(_found(pattern, text.after)) - Counter(_found(pattern, f"{text.before} {text.context}")))


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z][a-z']*|\d+", text.lower()) if word not in STOP]


def _stem(word: str) -> str:
    return word[:5]  # crude and plain: "movie" and "movies", "legal" and "legally" are one


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in _words(text)}


def _added(text: Texts) -> list[str]:
    old = _stems(f"{text.before} {text.context}")
    return [word for word in dict.fromkeys(_words(text.after)) if _stem(word) not in old]


def _kept(before: str, after: str) -> tuple[int, int]:
    stems = _stems(before)
    return len(stems & _stems(after)), len(stems)


STRATEGY_RULES: dict[str, Callable[[Texts], str]] = {
    "explanation": _explanation,
    "elaboration": _elaboration,
    "hints": _hints,
    "safety": _safety,
}
ERROR_RULES: dict[str, Callable[[Texts], str]] = {
    "over_specified": _over_specified,
    "inconsistent": _inconsistent,
    "context_dropped": _context_dropped,
}
