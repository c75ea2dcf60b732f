"""What a rewriter adds to prompts, beside what its teacher added: strategies, words, and in the miniature facets.

The teacher's pairs are what the rewriter was trained on, so the tables say whether it learned to add the same things.
The prompts are not the same ones (test sets against training data): shares can differ without a fault of the rewriter.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from bpo_utils.rewrite_rules import STOP, STRATEGIES, classify

MOST = 20  # words listed, and compared with the teacher's
NONE, NOT_READ = "none", "not_read"  # no strategy found; mostly Chinese text, which the rules cannot read
Texts = tuple[str, str]  # prompt, optimized prompt


def adds(ours: Sequence[Texts], theirs: Sequence[Texts], miniature: bool = False) -> dict:
    """What the rewriter added (`ours`) and what the teacher did (`theirs`; may be empty).

    {n, n_teacher, strategies, words, shared_words, of_words, rank_correlation, facets}. The tables have rows {name,
    rewriter, rewriter_share, teacher, teacher_share}: prompts, and fractions of n and n_teacher (None without pairs).
    `words`: content words that only the rewrite has, the MOST frequent of either side; `shared_words`: how many of the
    teacher's `of_words` are among the rewriter's; the rank correlation is Spearman's over the words listed (None for
    fewer than three, or where a side does not vary). `facets`, of the miniature: those that only the rewrite names,
    with `needed`, how often the author of the rewritten prompt needed it.
    """
    found: dict = {"n": len(ours), "n_teacher": len(theirs)}
    kinds = [Counter(name for texts in part for name in _strategies(*texts)) for part in (ours, theirs)]
    names = [name for name in (*STRATEGIES, NONE, NOT_READ) if kinds[0][name] + kinds[1][name]]
    found["strategies"] = _beside(names, *kinds, len(ours), len(theirs))
    words = [Counter(word for texts in part for word in added_words(*texts)) for part in (ours, theirs)]
    top = [sorted(count, key=lambda word, count=count: (-count[word], word))[:MOST] for count in words]
    listed = sorted({*top[0], *top[1]}, key=lambda word: (-words[0][word], -words[1][word], word))
    found["words"] = _beside(listed, *words, len(ours), len(theirs))
    found |= {"shared_words": len({*top[0]} & {*top[1]}) if theirs else None, "of_words": len(top[1])}
    found["rank_correlation"] = _spearman([(words[0][word], words[1][word]) for word in listed])
    return found | {"facets": _facets(ours, theirs) if miniature else []}


def added_words(before: str, after: str) -> set[str]:
    """Content words of the rewrite that the original has not, in lower case; of Chinese, pairs of characters."""

    def words(text: str) -> set[str]:
        latin = {word for word in re.findall(r"[a-z][a-z'’-]*", text.lower()) if word not in STOP}
        runs = re.findall("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+", text)
        return latin | {run[at : at + 2] for run in runs for at in range(len(run) - 1)}

    return words(after) - words(before)


def _strategies(before: str, after: str) -> tuple[str, ...]:
    found = classify(before, after)
    return found.strategies or (NONE if found.applies else NOT_READ,)


def _beside(names: Iterable[str], ours: Counter, theirs: Counter, n: int, n_teacher: int) -> list[dict]:
    return [
        {
            "name": name,
            "rewriter": ours[name],
            "rewriter_share": ours[name] / n if n else None,
            "teacher": theirs[name],
            "teacher_share": theirs[name] / n_teacher if n_teacher else None,
        }
        for name in names
    ]


def _spearman(counts: list[tuple[int, int]]) -> float | None:
    from scipy.stats import spearmanr

    if len(counts) < 3 or any(len(set(side)) == 1 for side in zip(*counts, strict=True)):
        return None
    return float(spearmanr(*zip(*counts, strict=True)).statistic)


def _facets(ours: Sequence[Texts], theirs: Sequence[Texts]) -> list[dict]:
    from bpo_utils.mini import world

    def named(part: Sequence[Texts]) -> tuple[Counter, Counter]:
        added: Counter[str] = Counter()
        needed: Counter[str] = Counter()
        for before, after in part:
            old = world.read(before)
            new = set(world.read(after).asked) - set(old.asked)
            added.update(new)
            needed.update(new.intersection(world.needs(old) if old.topic else ()))
        return added, needed

    (added, needed), (taught, _) = named(ours), named(theirs)
    names = sorted(added | taught, key=lambda facet: (-added[facet], facet))
    rows = _beside(names, added, taught, len(ours), len(theirs))
    return [row | {"needed": needed[row["name"]]} for row in rows]
