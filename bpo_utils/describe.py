"""What prompt data look like: lengths, growth, duplicates, variety, differences. Small functions over plain texts."""

import csv
import difflib
import html
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from bpo_utils import paths, segment
from bpo_utils.records import Preference

# light enough for black text, apart for colour-blind eyes; struck through and underlined for grey print
INSERTED = "background:#cfe6f5;text-decoration:underline"
DELETED = "background:#fbdcc0;text-decoration:line-through"


def words(text: str) -> int:
    """Number of words, split on white space, as upstream counts them; a Chinese character counts as a word."""
    return len(segment.words(text))


def lengths(texts: Iterable[str], count: Callable[[str], int] = words) -> list[int]:
    """Length of each text in the unit of `count`: words, or tokens (`lambda text: len(tokenizer(text).input_ids)`)."""
    return [count(text) for text in texts]


def summary(values: Sequence[float]) -> dict[str, float]:
    """n, mean, median, min and max; only n where there are no values."""
    if not values:
        return {"n": 0}
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def growth(pairs: Iterable[tuple[str, str]]) -> list[float]:
    """Words of the optimized prompt / words of the prompt, one per pair. Raises ValueError for an empty prompt."""
    ratios = []
    for number, (prompt, optimized) in enumerate(pairs, 1):
        if not words(prompt):
            raise ValueError(f"pair {number} has an empty prompt, so it has no growth; filter empty prompts first")
        ratios.append(words(optimized) / words(prompt))
    return ratios


def unchanged_share(pairs: Iterable[tuple[str, str]]) -> float:
    """Fraction of pairs whose optimized prompt is the prompt, outer white space aside; 0 where there are no pairs."""
    same = [prompt.strip() == optimized.strip() for prompt, optimized in pairs]
    return sum(same) / len(same) if same else 0.0


def duplicates(texts: Iterable[str]) -> dict[str, int]:
    """Texts that occur more than once, with how often; case and white space do not tell two texts apart."""
    counts = Counter(" ".join(text.lower().split()) for text in texts)
    return {text: count for text, count in counts.most_common() if count > 1}


def distinct_n(texts: Iterable[str], n: int = 4) -> float:
    """Different word n-grams / all word n-grams, pooled over the texts (n=4: the distinct-4 of the paper's Table 1).

    0 where no text has n words. The share falls as texts are added: compare only samples of similar size.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        split = segment.words(text)
        counts.update(zip(*(split[start:] for start in range(n)), strict=False))
    return len(counts) / counts.total() if counts else 0.0


def by_source(rows: Iterable[Preference]) -> dict[str, list[Preference]]:
    """Preference rows by their source, the largest source first."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.source].append(row)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def segments(before: str, after: str) -> list[list[str]]:
    """The word diff of describe.word_diff as data: [kind, old text, new text], kind "=" or "!".

    The old texts joined are `before`, the new ones `after`: "=" are words that stayed (white space may differ), "!"
    words that were replaced, removed or added.
    """
    # punctuation counts as a word of its own: a colon behind a word does not make it another word
    piece = r"\s*(?:\w+|[^\w\s]+)|\s+$"
    old, new = re.findall(piece, before), re.findall(piece, after)
    # white space rides along with its word but does not make two words differ
    matcher = difflib.SequenceMatcher(None, [w.strip() for w in old], [w.strip() for w in new], autojunk=False)
    return [
        ["=" if kind == "equal" else "!", "".join(old[i:j]), "".join(new[k:m])]
        for kind, i, j, k, m in matcher.get_opcodes()
    ]


def word_diff(before: str, after: str) -> str:
    """HTML of `after` with inserted words marked (ins) and words of `before` that are gone struck through (del)."""
    parts = []
    for kind, old, new in segments(before, after):
        if kind == "=":
            parts.append(html.escape(new))
            continue
        if old:
            parts.append(f'<del style="{DELETED}">{html.escape(old)}</del>')
        if new:
            parts.append(f'<ins style="{INSERTED}">{html.escape(new)}</ins>')
    return f'<div style="white-space:pre-wrap">{"".join(parts)}</div>'


def paper_table1() -> list[dict[str, str | int | float]]:
    """Table 1 of the paper: dataset, rows and distinct-4 before (sampled) and after (kept) construction.

    Raises FileNotFoundError if the package is incomplete.
    """
    path = paths.FACTS / "paper_table1_data.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing from the package; install it again")
    number = {"sampled_n": int, "kept_n": int, "sampled_distinct4": float, "kept_distinct4": float}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: number.get(key, str)(value) for key, value in row.items()} for row in rows]
