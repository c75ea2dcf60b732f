"""From a preference row and its teacher's reply to a training pair: parsing, limits, context put back (paper, 3.2)."""

import ast
import random
import re
from collections.abc import Sequence

from bpo_utils import segment
from bpo_utils.profile import Filters
from bpo_utils.records import REPLY_END, REPLY_MARKER, Pair, Preference, Rejected, Reply

NO_REPLY, NO_MARKER, NO_END, EMPTY, LEAKED = (
    "no reply",  # refused, empty, or the teacher prompt was too long
    "no marker",
    "no end mark",
    "empty instruction",
    "leaked marker",
)
SHRINKS, GROWS, CONTEXT_LOST = "shrinks too much", "grows too much", "context lost"
AFTER = (NO_REPLY, NO_MARKER, NO_END, EMPTY, LEAKED, SHRINKS, GROWS, CONTEXT_LOST)

# Upstream's six ways to join instruction and context, with its probabilities. Only its corrected script quotes the
# context; the one that made the published data put the quotes around the instruction (OLD_FORM).
FORMS = {"{i}\n{c}": 4, "{c}\n{i}": 4, "{i} {c}": 1, "{c} {i}": 1, '{i} "{c}"': 3, '"{c}" {i}': 3}  # in sixteenths
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’"}
OLD_FORM = '{c} "{i}"'
PLAIN_FORM = "{i}\n{c}"


class MalformedReply(ValueError):
    """A teacher's reply that gives no optimized instruction; `reason` is one of the names in AFTER."""

    def __init__(self, reason: str, reply: str):
        super().__init__(f"{reason} in the teacher's reply that ends {reply[-60:]!r}")
        self.reason = reason


def parse_reply(reply: str, leaked: Sequence[str] = ("[protected",)) -> str:
    """The optimized instruction in a teacher's reply. Raises MalformedReply with the reason.

    Stricter than upstream's script, which takes a reply without an end mark (it may have been cut off), and it never
    evaluates text: quotes around the whole instruction are taken off by reading, not by running, what is inside.
    """
    marker = _find_marker(reply)
    if marker is None:
        raise MalformedReply(NO_MARKER, reply)
    text, end, _ = reply[marker.end() :].partition(REPLY_END)
    if not end:
        raise MalformedReply(NO_END, reply)
    text = _unquoted(_without_commentary(text.strip())).strip()
    if not text:
        raise MalformedReply(EMPTY, reply)
    if any(mark.lower() in text.lower() for mark in leaked):
        raise MalformedReply(LEAKED, reply)
    return text


def _find_marker(reply: str) -> re.Match[str] | None:
    # at the start of a line in any spelling, also bold or as a heading; else, as upstream, the exact words anywhere
    at_line = r"^[ \t]*(?:#+ *)?(?:\*\*)?optimi[sz]ed (?:instruction|prompt)(?:\*\*:|:\*\*|:)"
    return re.search(at_line, reply, re.IGNORECASE | re.MULTILINE) or re.search(re.escape(REPLY_MARKER), reply)


def _without_commentary(text: str) -> str:
    # "... I suggest the following optimized instruction:", then the quoted instruction, perhaps remarks after it
    match = re.match(r'[^\n]*\boptimi[sz]ed (?:instruction|prompt):\s*("[^"]*"|“[^”]*”)\s*(?:\n\s*\n|$)', text, re.I)
    return match[1] if match else text


def _unquoted(text: str) -> str:
    opening, closing = text[:1], QUOTES.get(text[:1], "")
    if not closing:
        return text
    if re.fullmatch(rf"{opening}(?:[^{opening}{closing}\\]|\\[\"'\\nt])*{closing}", text):
        return _literal(text)
    inside = re.sub(r"(?<=\w)['’](?=\w)", "_", text[1:])  # an apostrophe in a word is no quote
    if not re.search(f"[{opening}{closing}]", inside):
        return text[1:] if opening in '"“' else text  # opened and never closed
    # `"Ann" and "Bob"` is not one quotation: what comes first inside would close, not open
    first = re.search(f"[{opening}{closing}]", inside[:-1])
    opens = first is None or (first.start() == 0 or inside[first.start() - 1] in " \t\n([{" or first[0] != closing)
    return text[1:-1] if inside.endswith(closing) and opens else text


def _literal(text: str) -> str:
    # some replies escape what is inside, as in code; literal_eval reads a string constant and nothing else
    if "\\" not in text or text[0] not in "\"'":
        return text[1:-1]
    try:
        return ast.literal_eval(text.replace("\r", "\\r").replace("\n", "\\n"))
    except (ValueError, SyntaxError):
        return text[1:-1]


def put_context_back(instruction: str, optimized: str, context: str, rng: random.Random) -> tuple[str, str]:
    """Prompt and optimized prompt with the context in the same place on both sides (upstream's rule).

    Without context both stay as they are. A rewrite that already holds the context stays as it is; where one side says
    "follow" (the following ...) or the instruction ends with a colon the context comes below; else one of FORMS.
    """
    if not context:
        return instruction, optimized
    if _holds(optimized, context):
        return _join(PLAIN_FORM, instruction, context), optimized
    form = PLAIN_FORM
    if _any_form(instruction, optimized):
        form = rng.choices(list(FORMS), weights=list(FORMS.values()))[0]
    return _join(form, instruction, context), _join(form, optimized, context)


def _holds(optimized: str, context: str) -> bool:
    return context.lower() in optimized.lower()


def _any_form(instruction: str, optimized: str) -> bool:
    return not ("follow" in optimized or "follow" in instruction or instruction.rstrip().endswith((":", "：")))


def _join(form: str, instruction: str, context: str) -> str:
    return form.format(i=instruction, c=context).strip()


def context_rng(row_id: str) -> random.Random:
    """Random numbers for the place of a row's context."""
    return random.Random(f"context form of {row_id}")  # by row, so that neither order nor filters change the others


def _kept(context: str, optimized: str) -> bool:
    # upstream's "already holds it" looks for letters: the context "art" is in "start", and then it would be lost.
    # Chinese has no spaces, so there a context may stand in the middle of a sentence.
    edges = ("", "") if segment.has_han(context) else (r"(?<!\w)", r"(?!\w)")
    return bool(re.search(edges[0] + re.escape(context) + edges[1], optimized, re.IGNORECASE))


def all_forms(row: Preference, optimized: str) -> set[tuple[str, str]]:
    """Every pair that the context rule can make of a row, in whichever form (upstream's old one too)."""
    if not row.context or _holds(optimized, row.context) or not _any_form(row.prompt, optimized):
        return {put_context_back(row.prompt, optimized, row.context, context_rng(row.id))}
    sides = (row.prompt, optimized)
    return {tuple(_join(form, side, row.context) for side in sides) for form in (*FORMS, OLD_FORM)}


def build_pairs(
    rows: Sequence[Preference], replies: Sequence[Reply], filters: Filters
) -> tuple[list[Pair], list[Rejected]]:
    """Training pairs, and the rows that gave none, each with its reason (one of AFTER).

    `replies[k]` is the teacher's reply to `rows[k]`. The two length rules hold for rows without context only, as
    upstream's; leaked markers are refused everywhere. Raises ValueError if the two lists differ in length.
    """
    if len(rows) != len(replies):
        raise ValueError(
            f"{len(rows)} rows but {len(replies)} replies; there must be one reply per row, in the same order"
        )
    outcomes = [_pair_or_refusal(row, reply, filters) for row, reply in zip(rows, replies, strict=True)]
    pairs = [outcome for outcome in outcomes if isinstance(outcome, Pair)]
    return pairs, [outcome for outcome in outcomes if isinstance(outcome, Rejected)]


def _pair_or_refusal(row: Preference, reply: Reply, filters: Filters) -> Pair | Rejected:
    if reply.outcome != "answered":
        return Rejected(row.id, NO_REPLY, reply.text, reply.outcome)
    try:
        optimized = parse_reply(reply.text, filters.leaked_markers)
    except MalformedReply as error:
        return Rejected(row.id, error.reason, reply.text)
    if not row.context:
        before, after = len(segment.words(row.prompt)), len(segment.words(optimized))
        if before / after > filters.max_shrink:
            return Rejected(row.id, SHRINKS, optimized, f"{before} words, then {after}")
        if after / before > filters.max_growth:
            return Rejected(row.id, GROWS, optimized, f"{before} words, then {after}")
    prompt, optimized = put_context_back(row.prompt, optimized, row.context, context_rng(row.id))
    if row.context and not _kept(row.context.strip(), optimized):
        return Rejected(row.id, CONTEXT_LOST, optimized)
    return Pair(row.id, prompt, optimized, row.source)
