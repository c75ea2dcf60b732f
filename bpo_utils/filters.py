"""Which preference rows are worth a teacher's work, and the waterfall of everything that was removed.

The paper (section 3.2) names the rules, too short instructions and a "strict" self-BLEU diversity filter, without a
number; near duplicates and languages are ours. Every threshold stands in the profile (section `filters`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bpo_utils import language, segment
from bpo_utils.pairs import GROWS, LEAKED, SHRINKS
from bpo_utils.profile import Filters
from bpo_utils.records import Preference, Rejected, joined

EMPTY_PROMPT, SHORT, LONG, OTHER_LANGUAGE = "empty prompt", "too short", "too long", "other language"
DUPLICATE, EQUAL, NEAR, SIMILAR = "duplicate prompt", "good equals bad", "near duplicate", "too similar (self-BLEU)"
BEFORE = (EMPTY_PROMPT, SHORT, LONG, OTHER_LANGUAGE, DUPLICATE, EQUAL, NEAR, SIMILAR)
SHINGLE = 5  # characters; words would not do for Chinese, and a typing error spoils five shingles, not a whole text
PERMUTATIONS = 128


def before(rows: Iterable[Preference], filters: Filters) -> tuple[list[Preference], list[Rejected]]:
    """Rows that go to the teacher, and those that do not, each with the first reason in the order of BEFORE.

    A row is compared with the rows kept before it, so the order decides which of two similar ones stays.
    """
    from bpo_utils.self_bleu import Diversity

    passed, dropped = [], []
    seen: set[str] = set()
    near = NearDuplicates(filters.near_duplicates) if filters.near_duplicates is not None else None
    diversity = Diversity() if filters.max_self_bleu is not None else None
    for row in rows:
        text = joined(row.prompt, row.context)
        refused = _unfit(row, filters, seen) or (near and near.refusal(row, text))
        if not refused and diversity is not None and (bleu := diversity.bleu(text)) >= filters.max_self_bleu:
            refused = Rejected(row.id, SIMILAR, row.prompt, f"BLEU {bleu:.1f} against the rows kept")
        if refused:
            dropped.append(refused)
            continue
        passed.append(row)
        if near:
            near.add(row.id, text)
        if diversity is not None:
            diversity.add(text)
    return passed, dropped


def _unfit(row: Preference, filters: Filters, seen: set[str]) -> Rejected | None:
    words = len(segment.words(row.prompt))
    key = " ".join(f"{row.prompt}\n{row.context}".lower().split())
    if not words:
        return Rejected(row.id, EMPTY_PROMPT, row.prompt)
    if words < filters.min_prompt_words:
        return Rejected(row.id, SHORT, row.prompt, f"{words} words")
    if filters.max_prompt_words is not None and words > filters.max_prompt_words:
        return Rejected(row.id, LONG, row.prompt, f"{words} words")
    if filters.languages and (other := language.surely_other(row.prompt, filters.languages)):
        return Rejected(row.id, OTHER_LANGUAGE, row.prompt, other)
    if key in seen:
        return Rejected(row.id, DUPLICATE, row.prompt)
    seen.add(key)
    if row.good.strip() == row.bad.strip():
        return Rejected(row.id, EQUAL, row.good)
    return None


class NearDuplicates:
    """Finds a text seen before whose character 5-grams are the same to `threshold` (Jaccard similarity, 0 to 1).

    MinHash (datasketch) finds candidates in time that does not grow with what was seen; the exact similarity decides.
    So nothing is called a near duplicate that is none, but a few are missed: on 2,000 real prompts none from 0.8 on
    (tests/test_filters.py).
    """

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        self.texts: dict[str, str] = {}
        # it may propose too many, they are looked at again; what it does not propose is lost
        self.index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=(0.05, 0.95))

    def add(self, id: str, text: str) -> None:
        """Remember a text."""
        self.index.insert(id, _minhash(shingles(text)), check_duplication=False)
        self.texts[id] = text

    def nearest(self, text: str) -> tuple[str, float]:
        """(id, similarity) of the nearest text that is near enough; ("", 0.0) if there is none."""
        mine = shingles(text)
        found = [(_jaccard(mine, shingles(self.texts[id])), id) for id in self.index.query(_minhash(mine))]
        similarity, id = max(found, default=(0.0, ""))
        return (id, similarity) if similarity >= self.threshold else ("", 0.0)

    def refusal(self, row: Preference, text: str) -> Rejected | None:
        """The row as rejected, if it is a near duplicate."""
        id, similarity = self.nearest(text)
        return Rejected(row.id, NEAR, row.prompt, f"{similarity:.2f} to {id}") if id else None


def shingles(text: str) -> set[str]:
    """The runs of SHINGLE characters of a text without regard to case and white space; a shorter text is one."""
    plain = re.sub(r"\s+", " ", text.lower()).strip()
    return {plain[start : start + SHINGLE] for start in range(max(1, len(plain) - SHINGLE + 1))}


def _minhash(parts: set[str]) -> Any:
    from datasketch import MinHash

    made = MinHash(num_perm=PERMUTATIONS, seed=1)
    made.update_batch([part.encode() for part in parts])
    return made


def _jaccard(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)


def limits(filters: Filters) -> dict[str, str]:
    """What each filter removes, in words with the profile's numbers; "off" where it removes nothing."""
    near, bleu = filters.near_duplicates, filters.max_self_bleu
    longest, growth = filters.max_prompt_words, f"under {1 / filters.max_shrink:.2g} times the words, without context"
    return {
        EMPTY_PROMPT: "no words",
        SHORT: f"under {filters.min_prompt_words} words",
        LONG: "off" if longest is None else f"over {longest} words",
        OTHER_LANGUAGE: f"surely not {' or '.join(filters.languages)}" if filters.languages else "off",
        DUPLICATE: "the same but for case and white space",
        EQUAL: "nothing to learn from",
        NEAR: "off" if near is None else f"Jaccard {near} or more",
        SIMILAR: "off" if bleu is None else f"BLEU {bleu:g} or more",
        SHRINKS: growth,
        GROWS: f"over {filters.max_growth:g} times the words, without context",
        LEAKED: ", ".join(filters.leaked_markers) or "off",
    }


def waterfall(total: int, rejected: Sequence[Rejected], filters: Filters, names: Sequence[str]) -> list[dict[str, Any]]:
    """[{filter, limit, removed, kept}] for the filters `names` in their order, after a first line for all rows.

    Raises ValueError for a reason that is not among `names`: nothing may vanish from the count.
    """
    removed = Counter(row.reason for row in rejected)
    if unknown := sorted(removed.keys() - set(names)):
        raise ValueError(f"rows were rejected for {unknown}, which the waterfall does not name; it has {list(names)}")
    told = limits(filters)
    steps, kept = [{"filter": "all rows", "limit": "", "removed": 0, "kept": total}], total
    for name in names:
        kept -= removed[name]
        steps.append({"filter": name, "limit": told.get(name, ""), "removed": removed[name], "kept": kept})
    return steps


def by_source(rows: Sequence[Preference], kept: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Rows of each source, and how many of them are among the ids `kept`: what the paper's Table 1 tells of its own."""
    left = set(kept)
    for name in sorted({row.source for row in rows}):
        mine = [row for row in rows if row.source == name]
        yield {"dataset": name, "rows": len(mine), "kept": sum(row.id in left for row in mine)}
