"""Training schedulers of the curriculum: which rows, sorted from easy to hard, may be offered in round t = 1, 2 ..."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bpo_utils import segment
from bpo_utils.search import difficulty
from bpo_utils.search.task import Row

if TYPE_CHECKING:
    from bpo_utils.search.methods.curriculum import Settings

LABELS = 10  # different golds up to which they are taken for labels, and counted


def available(
    rows: Sequence[Row], hard: Mapping[str, float], settings: "Settings", t: int, seen: Sequence[float], seed: int
) -> tuple[list[Row], list[Row]]:
    """(rows that round t may offer, the others: the next harder ones first), both in the curriculum's order.

    `seen`: dev scores of the best instruction before each round until now, for baby steps: a bucket is added in each
    round that follows one without a new best.
    """
    if settings.order == "random":
        hard = {row.id: difficulty.lot(row.id, str(seed)) for row in rows}
    line = difficulty.ordered(rows, hard, settings.order == "hard_first")
    if settings.scheduler == "band":
        return band(line, hard, settings.width)
    if settings.scheduler in ("linear", "root"):
        growth, first = settings.growth or settings.rounds, settings.first_share
        share = linear(t, growth, first) if settings.scheduler == "linear" else root(t, growth, first, settings.power)
        count = len(part(line, share))
        return line[:count], line[count:]
    cut = buckets(line, settings.buckets or settings.rounds)
    if settings.scheduler == "one_pass":
        now = min(t, len(cut)) - 1
        return cut[now], [row for bucket in [*cut[now + 1 :], *reversed(cut[:now])] for row in bucket]
    stuck = sum(seen[place] <= max(seen[:place]) for place in range(1, len(seen)))
    count = sum(len(bucket) for bucket in cut[: 1 + stuck])
    return line[:count], line[count:]


def linear(t: float, growth: float, first: float) -> float:
    """The share of rows in round t: `first` at t = 0, all from t = `growth` on."""
    return min(1.0, first + (1 - first) * t / growth)


def root(t: float, growth: float, first: float, power: float = 2.0) -> float:
    """The same along a root, which adds rows fast at first: with first = 0.2 and growth = 6 .20 .45 .60 .72 .82 .92 1
    for t = 0 to 6."""
    return min(1.0, ((1 - first**power) * t / growth + first**power) ** (1 / power))


def part(rows: Sequence[Row], share: float) -> list[Row]:
    """The first rows, so large a share of all, and at least one."""
    return list(rows[: max(1, math.ceil(share * len(rows) - 1e-9))])


def buckets(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """The rows cut into so many consecutive parts of about one size (fewer if there are not so many rows)."""
    count = min(count, len(rows))
    ends = [round(len(rows) * place / count) for place in range(count + 1)]
    return [list(rows[a:b]) for a, b in zip(ends, ends[1:], strict=False)]


def band(rows: Sequence[Row], hard: Mapping[str, float], width: float) -> tuple[list[Row], list[Row]]:
    """(rows with an error rate in [0.5 - width, 0.5 + width], the others), each with those nearest to 0.5 first.

    About half right is where rows teach most in Prompt Curriculum Learning (arXiv 2510.01135). If no row lies in the
    band, the nearest ones do.
    """
    near = sorted(rows, key=lambda row: abs(hard[row.id] - 0.5))  # stable: of equals the one that stood first
    nearest = abs(hard[near[0].id] - 0.5)
    inside = [row for row in near if abs(hard[row.id] - 0.5) <= max(width, nearest) + 1e-9]
    return inside, near[len(inside) :]


def balance(offered: Sequence[Row], among: int, hard: Mapping[str, float]) -> dict[str, Any]:
    """What a round offered, for the trace: rows, among how many, mean words and difficulty, and how often each label
    where golds are labels. A curriculum changes these, too."""
    golds = Counter(row.gold for row in offered)
    told: dict[str, Any] = {"offered": len(offered), "available": among}
    told["words"] = math.fsum(len(segment.words(row.input)) for row in offered) / len(offered)
    told["difficulty"] = math.fsum(hard[row.id] for row in offered) / len(offered)
    return told | {"labels": dict(sorted(golds.items())) if len(golds) <= LABELS else {}}
