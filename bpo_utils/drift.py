"""How far a rewrite moved from its original: length, similarity, and what was lost on the way.

A flag is a reason to read the pair, not a verdict: a rewrite that makes an unsafe request safe ought to move far. The
limits are ours, round numbers; the paper has none. Of BPO's 300 validation rows (instruction against optimized prompt)
they flag: similarity 18, length 39, numbers 4, quoted 6, names 11, negation 5, answered 2, the others none; 69 rows
(23 %) have at least one flag. Everything works on Chinese; names are looked for by capitals, which Chinese has not, so
of a Chinese text only its Latin words and its quoted titles are checked.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from bpo_utils import segment

MIN_CHRF = 25.0  # below this little of the wording is left
MAX_GROWTH = 4.0  # words after / words before; the longest that upstream's script of today keeps is 6
MIN_GROWTH = 0.6  # shorter than this is a cut; upstream's script of today drops what is shorter than 0.5
KINDS = ("similarity", "length", "numbers", "quoted", "code", "links", "names", "negation", "language", "answered")

_QUOTED = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|(?<!\w)'([^'\n]+)'(?!\w)|‘([^’\n]+)’|「([^」]+)」|《([^》]+)》")
_CODE = re.compile(r"```[\w+-]*\n?(.+?)```|`([^`\n]+)`", re.DOTALL)
_LINK = re.compile(r"https?://[\w./?=&%#~:+@-]*[\w/]")
_NUMBER = re.compile(r"(?<![A-Za-z\d.,])\d+(?:[.,]\d+)*")  # not the 2 of WW2
_WORDS = (
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)  # "one" is a pronoun
_SPELLED = {word: str(number) for number, word in enumerate(_WORDS, 2)}
_CHINESE = {character: str(n) for n, character in enumerate("二三四五六七八九十", 2)} | {"两": "2"}
# a Chinese numeral counts before a measure word only: elsewhere it is often part of another word
_CHINESE_NUMBER = re.compile("([二两三四五六七八九十])(?=[个种条点项步句段篇首位名次])")
_NEGATION = re.compile(
    r"\b(?:not|no|never|without|cannot|avoid\w*|except|neither|nor|none)\b|n['’]t\b"
    "|不要|不得|不能|不用|不许|不可|不必|不是|没有|避免|禁止|切勿|无需|(?<![特区分个级类识性])别"
)
_ANSWER = re.compile(
    r"\W*(?:(?:i['’]?m|i am) (?:sorry|afraid)|sorry\b|as an ai\b|as a (?:large )?language model|sure[,!]|certainly[,!]"
    "|抱歉|很抱歉|对不起|作为一个?人工智能|作为一个?语言模型|当然[，！])",
    re.IGNORECASE,
)
_SENTENCE_START = re.compile(r"(?:^|[.!?:\n|\"“(])\s*(?:[-*•]\s*|\d+[.)]\s*)?")


def chrf(before: str, after: str) -> float:
    """chrF of the rewrite against the original, 0 to 100 (Popovic 2015, by sacrebleu): F2 of characters 1- to 6-grams.

    The recall weighs more, so a rewrite that keeps the wording and adds to it loses less than one that replaces it.
    """
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=0).sentence_score(after, [before]).score


def growth(before: str, after: str) -> float:
    """Words of the rewrite / words of the original (`segment.words`). Raises ValueError for an empty original."""
    if not (count := len(segment.words(before))):
        raise ValueError("the original is empty, so it has no growth; filter empty prompts first")
    return len(segment.words(after)) / count


def flag_drift(before: str, after: str) -> list[str]:
    """Why a rewrite should be read: reasons "kind: what", the kinds as in KINDS; empty if nothing was found."""
    reasons = []
    if (score := chrf(before, after)) < MIN_CHRF:
        reasons.append(f"similarity: chrF {score:.0f} is under {MIN_CHRF:.0f}")
    if not MIN_GROWTH <= (ratio := growth(before, after)) <= MAX_GROWTH:
        reasons.append(f"length: {ratio:.1f} times the words, outside {MIN_GROWTH} to {MAX_GROWTH:.0f}")
    for kind, find in LOSSES.items():
        if missing := find(before, after):
            reasons.append(f"{kind}: {', '.join(missing)}"[:120])
    if negations(before) and not negations(after):
        reasons.append(f"negation: {', '.join(negations(before))} is gone")
    if mostly_han(before) != mostly_han(after):
        reasons.append(f"language: {'Chinese became Latin script' if mostly_han(before) else 'became Chinese'}")
    if answered(before, after):
        reasons.append(f"answered: begins {after.strip()[:20]!r}")
    return reasons


def lost_numbers(before: str, after: str) -> list[str]:
    """Numbers of the original that the rewrite has not; `five`, `5`, full-width digits and, counting, `五个` agree."""
    return [number for number in dict.fromkeys(_numbers(before)) if number not in _numbers(after)]


def lost_quoted(before: str, after: str) -> list[str]:
    """Quoted strings and titles whose words the rewrite has nowhere, case and white space aside."""
    return _missing(_QUOTED, before, after)


def lost_code(before: str, after: str) -> list[str]:
    """Code between backticks, single or three, that the rewrite has nowhere; white space aside."""
    return _missing(_CODE, before, after)


def lost_links(before: str, after: str) -> list[str]:
    """Web addresses that the rewrite has not, to the letter."""
    return [link for link in dict.fromkeys(_LINK.findall(before)) if link not in after]


def lost_names(before: str, after: str) -> list[str]:
    """Capitalised words inside a sentence (in Chinese text: Latin words) that the rewrite has in no spelling."""
    return [
        name for name in names(before) if not re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}", after, re.IGNORECASE)
    ]


def names(text: str) -> list[str]:
    """Words that look like names: capitalised, not at the start of a sentence, not the pronoun I; each once."""
    if mostly_han(text):
        return list(dict.fromkeys(re.findall(r"[A-Za-z][A-Za-z0-9+#-]+", text)))
    starts = {match.end() for match in _SENTENCE_START.finditer(text)}
    found = re.finditer(r"(?<![\w'’])[A-Z][\w-]*", text)
    return list(dict.fromkeys(m[0] for m in found if m.start() not in starts and m[0] != "I"))


def negations(text: str) -> list[str]:
    """The negating words of a text, in order."""
    return _NEGATION.findall(text.lower())


def mostly_han(text: str) -> bool:
    """Whether a text has at least as many Chinese characters as Latin words."""
    han = sum(segment.has_han(word) for word in segment.words(text))
    return han > 0 and han >= len(re.findall(r"[A-Za-z]+", text))


def answered(before: str, after: str) -> bool:
    """Whether the rewrite begins as a reply does (an apology, "As an AI", "Sure,"), which the original did not."""
    return bool(_ANSWER.match(after)) and not _ANSWER.match(before)


def overview(groups: Mapping[str, Sequence[tuple[str, str]]]) -> list[dict]:
    """A row for each group of (original, rewrite): {group, n, growth, chrf, flagged}; growth and chrF are medians.

    `flagged` is the share of pairs with at least one flag. Groups without pairs are left out.
    """
    return [
        {
            "group": name,
            "n": len(pairs),
            "growth": median(growth(*pair) for pair in pairs),
            "chrf": median(chrf(*pair) for pair in pairs),
            "flagged": sum(bool(flag_drift(*pair)) for pair in pairs) / len(pairs),
        }
        for name, pairs in groups.items()
        if pairs
    ]


def flag_shares(pairs: Iterable[tuple[str, str]]) -> list[dict]:
    """How often each flag was raised: {flag, flagged, n, share}, and a last row `any`. Empty if there are no pairs."""
    found = [{reason.split(":")[0] for reason in flag_drift(*pair)} for pair in pairs]
    counts = Counter(kind for kinds in found for kind in kinds) | Counter(any=sum(map(bool, found)))
    return [
        {"flag": kind, "flagged": counts[kind], "n": len(found), "share": counts[kind] / len(found)}
        for kind in (*KINDS, "any")
        if found
    ]


def _numbers(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", text)
    text = _CHINESE_NUMBER.sub(lambda match: f" {_CHINESE[match[1]]} ", text)
    text = re.sub(rf"\b(?:{'|'.join(_SPELLED)})\b", lambda match: _SPELLED[match[0].lower()], text, flags=re.IGNORECASE)
    return [number.replace(",", "") for number in _NUMBER.findall(text)]


def _missing(pattern: re.Pattern[str], before: str, after: str) -> list[str]:
    found = ("".join(groups).strip() for groups in pattern.findall(before))
    return [text for text in dict.fromkeys(found) if _plain(text) not in _plain(after)]


def _plain(text: str) -> str:
    return " ".join(text.lower().strip(" .,;!?。，").split())


LOSSES: dict[str, Callable[[str, str], list[str]]] = {
    "numbers": lost_numbers,
    "quoted": lost_quoted,
    "code": lost_code,
    "links": lost_links,
    "names": lost_names,
}
