"""The paper's tables once more: every mean computed again from its row, and the cells that cannot be right.

Only the printed shares and the sets' sizes are used, never the columns of the file that were computed before
(`dwr_recomputed`, `se_derived`, `flag`). Everything is in percent or points, as printed. Source: facts/README.md.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from bpo_utils.plots import PAPER_SETS, paper_rows

TABLES = tuple(f"T{number}" for number in range(3, 13))
ROUNDED = 0.05 + 1e-9  # a share or mean printed to one decimal is at most so far from its value
ADJUSTED = 0.1 + 1e-9  # the three shares of a cell are printed so that they add to 100.0: one of them then gives way
NAMES = ("table", "judge", "base", "method_a", "method_b")


def recompute() -> list[dict[str, Any]]:
    """One row per published comparison of Tables 3 to 12, in points.

    {table, judge, base, method_a, method_b, published, recomputed, difference, agrees, se, pooled}: `recomputed` is the
    unweighted mean over the four sets of A win minus B win, `agrees` says that it is the published value to rounding,
    `se` its standard error from the shares (`set_variance`), `pooled` the same mean with each set weighted by its size.
    """
    rows = []
    for row in _all_rows():
        nets = {name: net(row, name) for name in PAPER_SETS}
        mean = sum(nets.values()) / len(nets)
        size = {name: n for name, (_, n) in PAPER_SETS.items()}
        pooled = sum(nets[name] * n for name, n in size.items()) / sum(size.values())
        gap = row["dwr_published"] - mean
        numbers = {"published": row["dwr_published"], "recomputed": round(mean, 3), "difference": round(gap, 3)}
        more = {"agrees": abs(gap) <= ROUNDED, "se": round(standard_error(row), 2), "pooled": round(pooled, 2)}
        rows.append({name: row[name] for name in NAMES} | numbers | more)
    return rows


def impossible(tolerance: float = ADJUSTED) -> list[dict[str, Any]]:
    """Every cell of Tables 3 to 12 that cannot be right, in the order of the tables.

    {table, base, method_a, method_b, test_set, n, shares, sum, problem, fits}. A share must be k / n for the set's n
    questions to `tolerance` (ROUNDED is the strict one), and the counts of one cell together n. `problem` is "sum" (the
    shares do not add to 100 within their rounding), "counts" (no counts give them, though they add to 100) or "sum,
    counts" (a share is no k / n either). `fits`: the nearest set sizes, at most three and within a quarter of n, that
    would give the shares, with the counts; none where they do not add to 100.
    """
    found = []
    for row in _all_rows():
        for test_set, (_, n) in PAPER_SETS.items():
            shares = printed(row, test_set)
            if not (problem := _problem(shares, n, tolerance)):
                continue
            near = sorted(range(n * 3 // 4, n * 5 // 4 + 1), key=lambda size: (abs(size - n), size))
            sizes = [size for size in near if _counts(shares, size, tolerance)][:3] if problem == "counts" else []
            names = {name: row[name] for name in NAMES if name != "judge"}
            total = round(sum(shares), 1)
            about = {"test_set": test_set, "n": n, "shares": shares, "sum": total}
            found.append(
                names | about | {"problem": problem, "fits": {size: _counts(shares, size, tolerance) for size in sizes}}
            )
    return found


def find(table: str, base: str, method_a: str, method_b: str) -> dict[str, Any]:
    """The one published row of these names. Raises ValueError if there is none."""
    named = {"base": base, "method_a": method_a, "method_b": method_b}
    for row in paper_rows(table):
        if all(row[name] == value for name, value in named.items()):
            return row
    raise ValueError(
        f"Table {table[1:]} has no row {base}: {method_a} against {method_b}; see facts/paper_win_rates.csv"
    )


def printed(row: dict[str, Any], test_set: str) -> list[float]:
    """Shares of one cell in percent: A wins, tie (where the judge had that choice), B wins."""
    short = PAPER_SETS[test_set][0]
    shares = [row[f"{short}_{ending}"] for ending in ("a", "tie", "b")]
    return [share for share in shares if share is not None]


def net(row: dict[str, Any], test_set: str) -> float:
    """A win minus B win on one set, in points."""
    shares = printed(row, test_set)
    return shares[0] - shares[-1]


def set_variance(row: dict[str, Any], test_set: str) -> float:
    """Sampling variance of `net` in squared points: (w + l - (w - l)^2) / n of a multinomial, with shares w and l."""
    shares = printed(row, test_set)
    win, loss = shares[0] / 100, shares[-1] / 100
    return 1e4 * (win + loss - (win - loss) ** 2) / PAPER_SETS[test_set][1]


def standard_error(row: dict[str, Any], test_set: str = "") -> float:
    """Standard error of one set's net win, or of the unweighted mean over the four sets; in points, not in the paper.

    Only the drawing of questions is in it: one run, one judgment, one order, so the true noise is larger.
    """
    if test_set:
        return set_variance(row, test_set) ** 0.5
    return sum(set_variance(row, name) for name in PAPER_SETS) ** 0.5 / len(PAPER_SETS)


def _all_rows() -> Iterator[dict[str, Any]]:
    for table in TABLES:
        yield from paper_rows(table)


def _problem(shares: list[float], n: int, tolerance: float) -> str:
    if abs(sum(shares) - 100) > ROUNDED * len(shares):
        return "sum" if all(_near(share, n, tolerance) for share in shares) else "sum, counts"
    return "" if _counts(shares, n, tolerance) else "counts"


def _counts(shares: list[float], n: int, tolerance: float) -> list[int]:
    """Whole numbers that add to n and print as these shares; empty if there are none."""
    for counts in itertools.product(*(_near(share, n, tolerance) for share in shares)):
        if sum(counts) == n:
            return list(counts)
    return []


def _near(share: float, n: int, tolerance: float) -> list[int]:
    """Counts whose percentage of n is the printed share, but for `tolerance`."""
    middle = round(share * n / 100)
    return [k for k in range(max(0, middle - 1), middle + 2) if abs(100 * k / n - share) <= tolerance]
