"""How alike prompts are: the BLEU of each against all others, and against those kept before it. Exact, in linear time.

BLEU with many references counts an n-gram of the candidate as often as it stands in the candidate, but at most as often
as in the reference that has it most often; the length it compares with is the nearest of a reference. So nobody needs
to go through all references for each text: per n-gram the two largest counts will do, and of the lengths the different
ones. The scores are those of sacrebleu's sentence BLEU (smoothing "exp", effective order, 0 to 100), from
its own function; the tokens are segment.bleu_tokens'. Self-BLEU: Zhu et al., Texygen, arXiv 1802.01886. The BPO paper
(section 3.2) filters by it and names neither order nor threshold.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bpo_utils import segment

Members = set[str | tuple[str, int]]
_BLOCK = 1024  # rows


def self_bleu(texts: Sequence[str], max_order: int = 4) -> list[float]:
    """For each text its sentence BLEU (0 to 100) against all other texts: 100 for a duplicate, 0 if it shares no word.

    As `sacrebleu.sentence_bleu(text, others, smooth_method="exp", use_effective_order=True)` on the same tokens: a text
    shorter than `max_order` tokens is scored by the orders it has, an empty one with 0. A single text has no others and
    gets 0. Time and memory grow with the number of tokens. Raises ValueError for a max_order below 1.
    """
    import numpy as np

    _check(max_order)
    if len(texts) < 2:
        return [0.0] * len(texts)
    ids: dict[str, int] = {}
    numbers: list[int] = []
    lengths: list[int] = []
    for text in texts:
        tokens = _tokens(text)
        lengths.append(len(tokens))
        numbers += [ids.setdefault(token, len(ids)) for token in tokens]
    correct = _shared(np.array(numbers, dtype=np.int64), np.array(lengths), len(ids), max_order)
    counts = Counter(lengths)
    distinct = sorted(counts)
    nearest = {length: _nearest(length, distinct, alone=number == 1) for length, number in counts.items()}
    return [_score(row.tolist(), length, nearest[length]) for row, length in zip(correct, lengths, strict=True)]


class Diversity:
    """The texts kept so far, and the BLEU of the next one against them; each call takes the time of its one text.

    Against the kept texts an n-gram's largest count is enough. A set holds it: the second occurrence of an n-gram in a
    text is a member of its own, so is the third, and the members that two sets share are BLEU's clipped matches.
    """

    def __init__(self, max_order: int = 4) -> None:
        _check(max_order)
        self._kept: list[Members] = [set() for _ in range(max_order)]
        self._lengths: list[int] = []  # those of kept texts, different ones, ascending
        self._last: tuple[str, int, list[Members]] = ("", 0, [set() for _ in range(max_order)])

    def bleu(self, text: str) -> float:
        """BLEU of a text against the texts added so far, as self_bleu gives it; 0 while there are none."""
        if not self._lengths:
            return 0.0
        length, members = self._look(text)
        correct = [len(mine & kept) for mine, kept in zip(members, self._kept, strict=True)]
        return _score(correct, length, _nearest(length, self._lengths))

    def add(self, text: str) -> None:
        """Keep a text: later ones are compared with it too."""
        length, members = self._look(text)
        for mine, kept in zip(members, self._kept, strict=True):
            kept |= mine
        place = bisect_left(self._lengths, length)
        if self._lengths[place : place + 1] != [length]:
            self._lengths.insert(place, length)

    def _look(self, text: str) -> tuple[int, list[Members]]:
        """Length in tokens and, per order, the n-grams of a text; those of the last text are remembered."""
        if text != self._last[0]:
            tokens = _tokens(text)
            grams, members = tokens, [_occurrences(tokens)]
            for order in range(1, len(self._kept)):  # no token has a space inside, so no two n-grams give one string
                grams = [f"{gram} {token}" for gram, token in zip(grams, tokens[order:], strict=False)]
                members.append(_occurrences(grams))
            self._last = (text, len(tokens), members)
        return self._last[1:]


def greedy(texts: Sequence[str], threshold: float, max_order: int = 4) -> list[float]:
    """For each text, in order, its BLEU (0 to 100) against the texts kept before it; the first has 0.

    A text is kept if its BLEU stays under the threshold: text k was kept if and only if value k < threshold. Time grows
    with the number of tokens. This is the "strict" self-BLEU filter of the paper's section 3.2; its threshold is not
    given there. Raises ValueError for a max_order below 1.
    """
    kept, values = Diversity(max_order), []
    for text in texts:
        values.append(kept.bleu(text))
        if values[-1] < threshold:
            kept.add(text)
    return values


def _check(max_order: int) -> None:
    if max_order < 1:
        raise ValueError(f"max_order is {max_order}; BLEU needs n-grams of at least one token (4 is usual)")


def _tokens(text: str) -> list[str]:
    return segment.bleu_tokens(text.rstrip())  # as sacrebleu: 13a joins what stands before and after "-" and a newline


def _occurrences(grams: list[str]) -> Members:
    """The different n-grams, and (n-gram, 2), (n-gram, 3) ... for those that occur more often."""
    members: Members = set(grams)
    if len(members) < len(grams):
        repeated = [(gram, count) for gram, count in Counter(grams).items() if count > 1]
        members.update((gram, nth) for gram, count in repeated for nth in range(2, count + 1))
    return members


def _shared(tokens: Any, lengths: Any, vocabulary: int, max_order: int) -> Any:
    """BLEU's clipped matches of each row with all other rows, shape (rows, max_order), as whole numbers.

    `tokens`: the rows' tokens as numbers, one row after the other; `lengths`: how many each row has.
    """
    import numpy as np
    import pandas as pd

    row_of = np.repeat(np.arange(len(lengths)), lengths)
    end = np.cumsum(lengths)[row_of]
    matches = np.zeros((len(lengths), max_order), dtype=np.int64)
    at, gram, number = np.arange(len(tokens)), tokens, vocabulary  # where the n-grams start, which they are, how many
    for order in range(max_order):
        if order:
            inside = at + order < end[at]
            at, gram = at[inside], gram[inside]
            gram, different = pd.factorize(gram * vocabulary + tokens[at + order])  # by a hash table: linear
            number = len(different)
        again = np.bincount(gram, minlength=number)[gram] > 1  # a first look: what stands once is nowhere else
        at, gram = at[again], gram[again]
        of, row, count = _counts(gram, row_of[at], number)
        second = _second_largest(of, count, number)
        # the row with the largest count is limited by the second; every other has no more than the second anyway
        matches[:, order] = np.bincount(row, np.minimum(count, second[of]), len(lengths))
        shared = second[gram] > 0  # what no other row has cannot begin anything that another row has
        at, gram = at[shared], gram[shared]
    return matches


def _counts(gram: Any, row: Any, number: int) -> tuple[Any, Any, Any]:
    """Every n-gram of every row once: which n-gram, whose (the row), and how often. `row` must be ascending."""
    import numpy as np
    import pandas as pd

    # block by block of rows: a small hash table stays in the processor's cache
    edges = np.flatnonzero(np.diff(row // _BLOCK)) + 1
    blocks = [pd.factorize(block) for block in np.split(row * number + gram, edges)]
    pairs = np.concatenate([different for _, different in blocks])
    return pairs % number, pairs // number, np.concatenate([np.bincount(codes) for codes, _ in blocks])


def _second_largest(gram: Any, count: Any, number: int) -> Any:
    """For each n-gram, 0 to `number` - 1, the second largest of its counts; 0 if it has one only, or none."""
    import numpy as np

    most, second, holder = (np.zeros(number, dtype=np.int64) for _ in range(3))
    np.maximum.at(most, gram, count)
    largest = np.flatnonzero(count == most[gram])
    holder[gram[largest]] = largest  # one of them, if several are the largest
    others = np.ones(len(gram), dtype=bool)
    others[holder[gram]] = False
    np.maximum.at(second, gram[others], count[others])
    return second


def _nearest(length: int, distinct: list[int], alone: bool = False) -> int:
    """The nearest of the ascending lengths, the smaller of two as near. `alone`: `length` itself does not count."""
    place = bisect_left(distinct, length)
    around = distinct[max(place - 1, 0) : place] + distinct[place + alone : place + alone + 1]
    return min(around, key=lambda other: (abs(other - length), other))


def _score(correct: list[int], length: int, reference_length: int) -> float:
    from sacrebleu.metrics.bleu import BLEU

    order = len(correct)
    total = [max(length - before, 0) for before in range(order)]
    return BLEU.compute_bleu(correct, total, length, reference_length, "exp", None, True, order).score
