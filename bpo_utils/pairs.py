"""From preference rows to training pairs: teacher prompt, reply parsing, context put back, filters (paper, 3.2)."""

import ast
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bpo_utils.profile import Profile
from bpo_utils.records import REPLY_END, REPLY_MARKER, Pair, Preference, Rejected

NO_MARKER, NO_END, EMPTY, LEAKED = "no marker", "no end mark", "empty instruction", "leaked marker"
BEFORE = ("empty prompt", "too short", "duplicate prompt", "good equals bad")
AFTER = (NO_MARKER, NO_END, EMPTY, LEAKED, "shrinks too much", "grows too much", "context lost")

ASK = """Compare the two responses first. Is each correct, that is, does it do what the instruction asks and is what \
it says right? This counts most. How helpful is it, in depth, creativity and coherence? Is it harmless?
Then act as an expert in writing prompts: rewrite the instruction so that it brings about responses like the good one \
and not like the bad one."""
RULES_CONTEXT = (
    "Keep every piece of information that the instruction holds.",
    "Do not turn details of the good response into new requirements; use them as examples at most.",
    "Rewrite the instruction only. Neither change the context nor copy it into the instruction, and do not answer.",
    "Keep the meaning of the instruction and what its author wants.",
)
RULES_NO_CONTEXT = (
    "If the instruction is unsafe, rewrite it into a wholly safe and harmless one on the same topic.",
    RULES_CONTEXT[0],
    RULES_CONTEXT[1],
    "Some parts of the instruction may be marked as protected; they must stay exactly as they are.",
    "Never answer the instruction.",
    RULES_CONTEXT[3],
)
FORM = f"Reply in this form and write nothing after the end mark:\nComparison: ...\n{REPLY_MARKER} ... {REPLY_END}"

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


class TeacherFields(NamedTuple):
    prompt: str
    context: str
    bad: str
    good: str


def teacher_prompt(row: Preference) -> str:
    """The prompt that asks a teacher to compare two responses and rewrite the instruction, with or without context.

    Own wording; order of the fields (bad response first), aspects and constraints follow the paper's Figure 6.
    """
    return _teacher_text(TeacherFields(row.prompt, row.context, row.bad, row.good))


def parse_teacher_prompt(text: str) -> TeacherFields:
    """The fields of a teacher prompt, exactly as they went in. Raises ValueError for any other text."""
    block = r"\n(?P=quote)\n(.*?)\n(?P=quote)\n\n"
    first = r"Instruction:\n(?P<quote>\"{3,})\n(.*?)\n(?P=quote)\n\n"
    match = re.search(f"{first}(?:Context:{block})?Bad response:{block}Good response:{block}", text, re.DOTALL)
    fields = TeacherFields(match[2], match[3] or "", match[4], match[5]) if match else None
    if fields and _teacher_text(fields) == text:
        return fields
    raise ValueError(f"not a teacher prompt, it begins {text[:60]!r}; make it with pairs.teacher_prompt")


def _teacher_text(fields: TeacherFields) -> str:
    # a fence longer than any run of quotes inside, so that no text can end its own block
    longest = max(len(run) for field in fields for run in re.findall(r'"*', field))
    quote = '"' * max(3, longest + 1)
    given = {"Instruction": fields.prompt, "Bad response": fields.bad, "Good response": fields.good}
    if fields.context:
        given = {"Instruction": fields.prompt, "Context": fields.context} | given
    blocks = [f"{name}:\n{quote}\n{text}\n{quote}" for name, text in given.items()]
    rules = RULES_CONTEXT if fields.context else RULES_NO_CONTEXT
    numbered = "Rules:\n" + "\n".join(f"{number}. {rule}" for number, rule in enumerate(rules, 1))
    return "\n\n".join(["An instruction got these two responses.", *blocks, ASK, numbered, FORM])


def teacher_reply(comparison: str, optimized: str) -> str:
    """A reply in the form that the teacher prompt asks for: comparison, marker, optimized instruction, end mark."""
    return f"{comparison.strip()}\n\n{REPLY_MARKER} {optimized} {REPLY_END}"


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
    return not ("follow" in optimized or "follow" in instruction or instruction.rstrip().endswith(":"))


def _join(form: str, instruction: str, context: str) -> str:
    return form.format(i=instruction, c=context).strip()


def _rng(row_id: str) -> random.Random:
    return random.Random(f"context form of {row_id}")  # by row, so that neither order nor filters change the others


def replay(rows: Sequence[Preference]) -> list[str]:
    """The recorded replies, one per row. Raises ValueError that names the first row without one."""
    if missing := [row.id for row in rows if not row.reply]:
        raise ValueError(
            f"{len(missing)} rows have no recorded reply, first {missing[0]}; ask a teacher for them instead"
        )
    return [row.reply for row in rows]


def build_pairs(
    rows: Sequence[Preference], replies: Sequence[str], profile: Profile
) -> tuple[list[Pair], list[Rejected], list[dict[str, Any]]]:
    """Training pairs, rejected rows with their reasons, and the waterfall [{filter, removed, kept}] in filter order.

    `replies[k]` is the teacher's reply to `rows[k]`. The two length rules hold for rows without context only, as
    upstream's; leaked markers are refused everywhere. Raises ValueError if the two lists differ in length.
    """
    if len(rows) != len(replies):
        raise ValueError(
            f"{len(rows)} rows but {len(replies)} replies; there must be one reply per row, in the same order"
        )
    pairs, rejected = [], []
    seen: set[str] = set()
    for row, reply in zip(rows, replies, strict=True):
        outcome = _refused_before(row, profile, seen) or _pair_or_refusal(row, reply, profile)
        (pairs if isinstance(outcome, Pair) else rejected).append(outcome)
    return pairs, rejected, _waterfall(len(rows), rejected)


def _refused_before(row: Preference, profile: Profile, seen: set[str]) -> Rejected | None:
    words = len(row.prompt.split())
    key = " ".join(f"{row.prompt}\n{row.context}".lower().split())
    if not words:
        return Rejected(row.id, "empty prompt", row.prompt)
    if words < profile.filters.min_prompt_words:
        return Rejected(row.id, "too short", row.prompt)
    if key in seen:
        return Rejected(row.id, "duplicate prompt", row.prompt)
    seen.add(key)
    if row.good.strip() == row.bad.strip():
        return Rejected(row.id, "good equals bad", row.good)
    return None


def _pair_or_refusal(row: Preference, reply: str, profile: Profile) -> Pair | Rejected:
    try:
        optimized = parse_reply(reply, profile.filters.leaked_markers)
    except MalformedReply as error:
        return Rejected(row.id, error.reason, reply)
    if not row.context:
        before, after = len(row.prompt.split()), len(optimized.split())
        if before / after > profile.filters.max_shrink:
            return Rejected(row.id, "shrinks too much", optimized)
        if after / before > profile.filters.max_growth:
            return Rejected(row.id, "grows too much", optimized)
    prompt, optimized = put_context_back(row.prompt, optimized, row.context, _rng(row.id))
    # upstream's "already holds it" looks for letters: the context "art" is in "start", and then it would be lost
    if row.context and not re.search(rf"(?<!\w){re.escape(row.context.strip())}(?!\w)", optimized, re.IGNORECASE):
        return Rejected(row.id, "context lost", optimized)
    return Pair(row.id, prompt, optimized, row.source)


def _waterfall(total: int, rejected: Sequence[Rejected]) -> list[dict[str, Any]]:
    removed = Counter(row.reason for row in rejected)
    steps, kept = [{"filter": "all rows", "removed": 0, "kept": total}], total
    for name in (*BEFORE, *AFTER):
        kept -= removed[name]
        steps.append({"filter": name, "removed": removed[name], "kept": kept})
    return steps


def agreement(rows: Sequence[Preference], published: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """How far our parser and context rule agree with upstream's columns, before any length filter.

    `published`: (optimized_prompt, final_input, final_output) by row id. Returns the counts `rows`, `parsed`,
    `with_context`, `optimized_exact`, `pair_exact` (both sides, letter by letter), `pair_same_pieces` (in whichever
    form the random choice fell), `rule_same_pieces` (our context rule fed with the published optimized prompt) and
    `differences`: [{id, kind, ours, published}], kind `malformed`, `white space`, `quotes`, `commentary`, `other`, or
    `pair` where only the pair differs. The replies were put together from the published columns, so
    `optimized_exact` says what our parser takes off that upstream's left on, not how the raw replies would fare.
    """
    names = ("rows", "parsed", "with_context", "optimized_exact", "pair_exact", "pair_same_pieces", "rule_same_pieces")
    counts = Counter(dict.fromkeys(names, 0))
    differences = []
    for row in rows:
        theirs, *final = published[row.id]
        counts.update(rows=1, with_context=bool(row.context), rule_same_pieces=tuple(final) in _all_forms(row, theirs))
        try:
            ours = parse_reply(row.reply)
        except MalformedReply as error:
            differences.append({"id": row.id, "kind": "malformed", "ours": error.reason, "published": theirs})
            continue
        exact = put_context_back(row.prompt, ours, row.context, _rng(row.id)) == tuple(final)
        same = tuple(final) in _all_forms(row, ours)
        counts.update(parsed=1, optimized_exact=ours == theirs, pair_exact=exact, pair_same_pieces=same)
        if ours != theirs:
            differences.append({"id": row.id, "kind": _kind(ours, theirs), "ours": ours, "published": theirs})
        elif not same:
            differences.append({"id": row.id, "kind": "pair", "ours": ours, "published": final[1]})
    return {**counts, "differences": differences}


def _all_forms(row: Preference, optimized: str) -> set[tuple[str, str]]:
    if not row.context or _holds(optimized, row.context) or not _any_form(row.prompt, optimized):
        return {put_context_back(row.prompt, optimized, row.context, _rng(row.id))}
    sides = (row.prompt, optimized)
    return {tuple(_join(form, side, row.context) for side in sides) for form in (*FORMS, OLD_FORM)}


def _kind(ours: str, theirs: str) -> str:
    if ours == theirs.strip():
        return "white space"
    if ours == theirs.strip().strip("\"'"):
        return "quotes"
    return "commentary" if ours in theirs else "other"
