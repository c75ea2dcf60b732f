"""What the optimizer is shown: rows with answers, and earlier instructions with scores, in one plain form.

`Search.blind` takes the evidence away and leaves the rest of a meta-prompt as it is; a search that does as well without
was not led by it.
"""

import random
from collections.abc import Sequence

from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import scored
from bpo_utils.search.state import Search
from bpo_utils.search.task import Row, prompt

NOTHING = "(nothing is shown)"
PLACE = "<INS>"


def examples(search: Search, rows: Sequence[Row], candidate: Candidate | None = None) -> str:
    """Rows as numbered examples. With a candidate, which must have been scored on them, its answers stand between input
    and reference; without one the reference is shown as the output, as in a list of input-output pairs."""
    if search.blind or not rows:
        return NOTHING
    found = scored(search, candidate, rows) if candidate else [None] * len(rows)
    blocks = []
    for number, (row, one) in enumerate(zip(rows, found, strict=True), 1):
        parts = [f"<input>\n{row.input}\n</input>"]
        if one:
            parts += [f"<output>\n{one.answer}\n</output>", f"<reference>\n{row.gold}\n</reference>"]
        else:
            parts += [f"<output>\n{row.gold}\n</output>"]
        blocks.append("\n".join([f"Example {number}", "<example>", *parts, "</example>"]))
    return "\n\n".join(blocks)


def trajectory(search: Search, candidates: Sequence[Candidate], shown: Sequence[str], score_first: bool = False) -> str:
    """Instructions with their scores as they are to be shown, in the order given."""
    pairs = list(zip(candidates, shown, strict=True))
    if search.blind:  # the texts without their scores, and in an order that tells nothing
        random.Random(len(pairs)).shuffle(pairs)
        pairs = [(one, "(hidden)") for one, _ in pairs]
    parts = [(f"<instruction>\n{one.text}\n</instruction>", f"<score>{score}</score>") for one, score in pairs]
    items = ["\n".join(reversed(each) if score_first else each) for each in parts]
    return "\n\n".join(f"<scored>\n{item}\n</scored>" for item in items) or NOTHING


def numbered(texts: Sequence[str]) -> str:
    """Texts as a numbered list, each between tags of its own."""
    return "\n".join(f"{number}. <earlier>\n{text}\n</earlier>" for number, text in enumerate(texts, 1)) or NOTHING


def placed(search: Search, rows: Sequence[Row]) -> str:
    """Rows as exemplars with a mark exactly where the instruction will stand, and what is right (OPRO, section 4.2)."""
    if search.blind or not rows:
        return NOTHING
    blocks = []
    for row in rows:
        asked, begun = prompt(search.task, PLACE, row.input)
        mark = " " if asked.endswith("A:") else "\n"  # the answer begins on the line of its mark
        text = mark.join(part for part in (asked, begun) if part)
        blocks.append(f"<example>\n<input>\n{text}\n</input>\n<output>\n{row.gold}\n</output>\n</example>")
    return "\n\n".join([f"{PLACE} stands where the instruction will be put.", *blocks])
