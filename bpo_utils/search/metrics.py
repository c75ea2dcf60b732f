"""What an answer is worth on a real task. Every metric first finds the part that holds the answer, then reads it.

An answer that cannot be read is a class of its own (`Mark.unreadable`): worth 0 and counted, never taken for a label.
ProTeGi's code makes everything that does not begin with "yes" a no; here it must be a yes or a no.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction

from bpo_utils.search.task import Mark, Row

TAG = "answer"
FORM = f"Write your final answer between <{TAG}> and </{TAG}>."  # what a prompt ends with, if it is to ask for tags
NAMED = re.compile(r"(?:final\s+answer|answer|答案)\s*(?:is|are|为|是)?\s*[:：=]?\s*", re.IGNORECASE)
NUMBER = re.compile(r"(?<![A-Za-z0-9_.])[-−]?[$€£¥]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))")
LABELS = {  # the code of OPRO, eval_utils.py: what counts as false and as true
    **dict.fromkeys(("false", "no", "invalid", "0"), False),
    **dict.fromkeys(("true", "yes", "valid", "1"), True),
}
LETTER = re.compile(r"\([A-Z]\)")
MOST = 0.95  # of the references are letters in a task of options: a few of BIG-Bench Hard's are an option's text
OPTION = re.compile(r"^\(([A-Z])\)\s*(.*)$", re.MULTILINE)  # a line such as `(B) a text`

Metric = Callable[[Row, str], Mark]


def of(golds: Sequence[str], contained: bool = False) -> Metric:
    """The metric that fits these references: numbers, options, yes and no, else texts.

    `contained`: an answer that holds the reference is right too, as in OPRO's code; that finds "no" in "I do not know".
    """
    kinds = ((number, NUMBER.fullmatch, 1.0), (choice, LETTER.fullmatch, MOST), (boolean, _label, 1.0))
    found = {metric: sum(fits(gold.strip()) is not None for gold in golds) / len(golds) for metric, fits, _ in kinds}
    read = next((metric for metric, _, least in kinds if found[metric] >= least), exact)
    return containing(read) if contained and read is not number else read


def number(row: Row, answer: str) -> Mark:
    """Numbers are equal if they are after rounding to whole ones (OPRO, section 5; halves go to the even one).

    The number after `####` (the form of GSM8K's own solutions), else the last one of the part that holds the answer.
    """
    text = unicodedata.normalize("NFKC", part(answer))
    marked = text.rpartition("####")
    found = _numbers(marked[2])[:1] if marked[1] else []
    found = found or _numbers(text)[-1:]
    if not found:
        return Mark(0.0, "", True)
    return Mark(float(round(found[0]) == round(_numbers(row.gold)[-1])), _shown(found[0]))


def choice(row: Row, answer: str) -> Mark:
    """Options: the letter, or the text of one option while all others are absent (OPRO, eval_utils.py).

    A reference may be an option's text too. An answer that names several letters counts by its last line; if that names
    several too, it cannot be read.
    """
    options = dict(OPTION.findall(row.input))
    text = part(answer)
    last = next((line for line in reversed(text.split("\n")) if line.strip()), "")
    for read in (lambda: _letters(text, options), lambda: _letters(last, options), lambda: _options(text, options)):
        if len(found := read()) == 1:
            right = row.gold.strip() in (f"({found[0]})", options.get(found[0], "").strip())
            return Mark(float(right), f"({found[0]})")
    return Mark(0.0, "", True)


def boolean(row: Row, answer: str) -> Mark:
    """Yes and no, true and false, valid and invalid, whichever was said.

    The first word if it is one of them and a sentence's part ends there; else the only one in the part that holds the
    answer, or in its last sentence. 0 and 1 count where they are all that was said.
    """
    text = re.sub(r"\bnot (?:\w+ )?(valid|true)\b", "false", part(answer), flags=re.IGNORECASE)
    first = re.match(r"\W*([A-Za-z]+|[01]\W*$)(?:\W*$|[,.;:!\n])", text)
    last = next((line for line in reversed(re.split(r"\n|(?<=[.!?])\s", text)) if line.strip()), "")
    for told in (first.group(1) if first else "", re.sub("[01]", " ", text), re.sub("[01]", " ", last)):
        labels = {_label(word) for word in re.findall(r"[A-Za-z]+|[01]", told)} - {None}
        if len(labels) == 1:
            (label,) = labels
            return Mark(float(label == _label(row.gold.strip())), "yes" if label else "no")
    return Mark(0.0, "", True)


def exact(row: Row, answer: str) -> Mark:
    """Texts are equal after `normalised`; references of nothing but brackets and signs, without white space."""
    text, gold = part(answer), normalised(row.gold)
    if not any(letter.isalnum() for letter in row.gold):  # Dyck languages: brackets have no normal form
        said = "".join(re.findall(r"[\[\](){}<>]", text.strip().partition("\n")[0]))
        return Mark(float(said == re.sub(r"\s", "", row.gold)), said, not said)
    said = normalised(text)
    return Mark(float(said == gold), said, not said)


def containing(metric: Metric) -> Metric:
    """The metric, and an answer that contains the reference is right too."""

    def contained(row: Row, answer: str) -> Mark:
        mark = metric(row, answer)
        said, gold = part(answer).lower(), row.gold.strip().lower()
        return Mark(1.0, gold) if gold and gold in said else mark

    return contained


def normalised(text: str) -> str:
    """APE's normal form (evaluation of Instruction Induction): the first line, up to the first full stop, in lower
    case, without punctuation; a hyphen is a space."""
    line = text.strip().partition("\n")[0]
    line = re.split(r"\.(?!\d)|。", line, maxsplit=1)[0].lower().replace("-", " ")
    kept = "".join(letter for letter in line if not unicodedata.category(letter).startswith("P"))
    return " ".join(kept.split())


def part(answer: str) -> str:
    """The part that holds the answer: the last text between tags (or after a tag that was never closed); else what
    follows the last "answer is" or "answer:"; else all of it."""
    if found := re.findall(rf"<{TAG}>(.*?)(?:</{TAG}>|$)", answer, re.DOTALL | re.IGNORECASE):
        return found[-1].strip()
    for named in reversed(list(NAMED.finditer(answer))):
        told = re.search(r"(?:is|are|为|是|[:：=])\s*$", named.group(0), re.IGNORECASE)
        if told and answer[named.end() :].strip():
            return answer[named.end() :].strip()
    return answer.strip()


def _numbers(text: str) -> list[Fraction]:
    found = [re.sub(r"[^\d.\-−]", "", each.group(0)) for each in NUMBER.finditer(text)]
    return [Fraction(each.replace("−", "-")) for each in found]


def _shown(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"


def _letters(text: str, options: dict[str, str]) -> list[str]:
    """The letters that a text names: in brackets, alone, or at its beginning before a bracket, full stop or colon."""
    found = re.findall(r"\(([A-Z])\)", text) or re.findall(r"^\W*([A-Z](?=[).:：])|[A-Za-z](?=\W*$))", text)
    return list(dict.fromkeys(letter for letter in map(str.upper, found) if letter in options or not options))


def _options(text: str, options: dict[str, str]) -> list[str]:
    """The options whose texts stand in a text; one that is a part of another that stands there does not count."""
    said = " ".join(text.lower().split())
    texts = {letter: " ".join(option.lower().split()) for letter, option in options.items() if option.strip()}
    there = {letter: option for letter, option in texts.items() if option in said}
    return [
        letter
        for letter, option in there.items()
        if not any(option in other and option != other for other in there.values())
    ]


def _label(word: str) -> bool | None:
    return LABELS.get(word.lower())
