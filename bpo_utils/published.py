"""How far our reading of the teacher's replies agrees with what upstream published of the same replies."""

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bpo_utils.pairs import MalformedReply, all_forms, context_rng, parse_reply, put_context_back
from bpo_utils.records import REPLY_END, REPLY_MARKER, Preference

COUNTED = (
    *("rows", "parsed", "with_context", "optimized_exact", "optimized_same", "upstream_exact"),
    *("pair_exact", "pair_same_pieces", "rule_same_pieces"),
)


def agreement(rows: Sequence[Preference], published: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """How far our parser and context rule agree with upstream's columns, before any length filter.

    `published`: (optimized_prompt, final_input, final_output) by row id. Returns the counts `rows`, `parsed`,
    `with_context`, `optimized_exact` (letter by letter), `optimized_same` (but for white space and quotes around the
    whole), `upstream_exact` (upstream's own rule, letter by letter), `pair_exact` (both sides), `pair_same_pieces` (in
    whichever form the random choice fell), `rule_same_pieces` (our context rule fed with the published optimized
    prompt) and `differences`: [{id, kind, ours, published}], kind `malformed`, `white space`, `quotes`, `commentary`,
    `other`, or `pair` where only the pair differs. The replies were put together from the published columns, so the
    first counts say what our parser takes off that upstream's left on, not how the raw replies would fare.
    """
    counts = Counter(dict.fromkeys(COUNTED, 0))
    differences = []
    for row in rows:
        theirs, *final = published[row.id]
        counts.update(rows=1, with_context=bool(row.context), rule_same_pieces=tuple(final) in all_forms(row, theirs))
        counts.update(upstream_exact=parse_like_upstream(row.reply) == theirs)
        try:
            ours = parse_reply(row.reply)
        except MalformedReply as error:
            differences.append({"id": row.id, "kind": "malformed", "ours": error.reason, "published": theirs})
            continue
        kind = _kind(ours, theirs)
        exact = put_context_back(row.prompt, ours, row.context, context_rng(row.id)) == tuple(final)
        same = tuple(final) in all_forms(row, ours)
        counts.update(parsed=1, optimized_exact=ours == theirs, pair_exact=exact, pair_same_pieces=same)
        counts.update(optimized_same=kind in ("", "white space", "quotes"))
        if kind:
            differences.append({"id": row.id, "kind": kind, "ours": ours, "published": theirs})
        elif not same:
            differences.append({"id": row.id, "kind": "pair", "ours": ours, "published": final[1]})
    return {**counts, "differences": differences}


def parse_like_upstream(reply: str) -> str | None:
    """The optimized prompt as upstream's script reads a reply: after its marker, only a quoted string is unquoted.

    None if the marker is missing. Upstream runs `eval` on what looks quoted; where that would fail the text stays as it
    is, quotes and all, which is how they came into the published data.
    """
    _, marker, text = reply.partition(REPLY_MARKER)
    if not marker:
        return None
    text = text.partition(REPLY_END)[0].removeprefix(" ").removesuffix(" ")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
        return value if isinstance(value, str) else text
    return text


def _kind(ours: str, theirs: str) -> str:
    """What differs; empty if nothing does."""
    if ours == theirs:
        return ""
    if ours == theirs.strip():
        return "white space"
    if ours == theirs.strip().strip("\"'"):
        return "quotes"
    return "commentary" if ours in theirs else "other"
