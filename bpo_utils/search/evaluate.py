"""Scores of candidates: paired on the same rows, asked in one batch, and never asked twice."""

import math
from collections.abc import Iterable, Sequence

from bpo_utils.chat import wire
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.state import BudgetSpent, Scored, Search, completed
from bpo_utils.search.task import Mark, Row, prompt

NO_ANSWER = ("refused", "too_long", "empty")


def evaluate(search: Search, candidates: Sequence[Candidate], rows: Sequence[Row]) -> list[float]:
    """Mean score of each candidate over exactly these rows, which lie in train or dev.

    What was scored before is not asked again. Raises BudgetSpent, before anything is asked, if what is missing passes
    the budget; ValueError for a row of the test set.
    """
    _score(search, wanted(search, search.scores, candidates, rows), search.scores, "target")
    return [mean(search, one, rows) for one in candidates]


def wanted(
    search: Search, table: dict[str, dict[str, Scored]], candidates: Sequence[Candidate], rows: Sequence[Row]
) -> list[tuple[Candidate, Row]]:
    """The pairs that a table of scores lacks. Raises what `evaluate` raises."""
    if search.tests & {row.id for row in rows}:
        raise ValueError("rows of the test set are for `measure`, once, after the search")
    pairs = _missing(table, candidates, rows)
    if len(pairs) > search.left:
        raise BudgetSpent(f"{len(pairs)} target calls are wanted, {search.left:g} are left of {search.budget}")
    return pairs


def scored(search: Search, candidate: Candidate, rows: Iterable[Row]) -> list[Scored]:
    """The scores of one candidate on these rows, in order. Raises KeyError for a row that was not evaluated."""
    return [search.scores[candidate.id][row.id] for row in rows]


def mean(search: Search, candidate: Candidate, rows: Sequence[Row]) -> float:
    """Mean over these rows, all of which have been scored."""
    return math.fsum(one.value for one in scored(search, candidate, rows)) / len(rows)


def best(search: Search, candidates: Sequence[Candidate], rows: Sequence[Row], count: int = 1) -> list[Candidate]:
    """The `count` best candidates by their mean over these rows, evaluated where needed; of equals the older first."""
    found = dict(zip((one.id for one in candidates), evaluate(search, candidates, rows), strict=True))
    return sorted(candidates, key=lambda one: (-found[one.id], int(one.id[1:])))[:count]


def errors(search: Search, candidate: Candidate, rows: Sequence[Row]) -> list[Row]:
    """Those of the rows that the candidate gets wrong, evaluated where needed."""
    evaluate(search, [candidate], rows)
    return [row for row in rows if search.scores[candidate.id][row.id].value < search.task.right]


def measure(search: Search, candidates: Sequence[Candidate], rows: Sequence[Row]) -> list[list[Scored]]:
    """Scores outside of the budget, for what only looks at a finished search: the test, and the curves."""
    for table in (search.scores, search.measures):
        for one in candidates:
            table.setdefault(one.id, {})
    known = {id: search.scores[id] | search.measures[id] for id in (one.id for one in candidates)}
    pairs = _missing(known, candidates, rows)
    _score(search, pairs, search.measures, "measured")
    found = {one.id: search.scores[one.id] | search.measures[one.id] for one in candidates}
    return [[found[one.id][row.id] for row in rows] for one in candidates]


def _missing(
    table: dict[str, dict[str, Scored]], candidates: Sequence[Candidate], rows: Sequence[Row]
) -> list[tuple[Candidate, Row]]:
    wanted = {(one.id, row.id): (one, row) for one in candidates for row in rows}
    return [pair for (id, row), pair in wanted.items() if row not in table.get(id, {})]


def _score(
    search: Search, pairs: Sequence[tuple[Candidate, Row]], table: dict[str, dict[str, Scored]], role: str
) -> None:
    """Have every pair answered, in one batch, and write its score into the table."""
    if not pairs:
        return
    replies = completed(search, role, [request(search, one, row) for one, row in pairs])
    for (one, row), reply in zip(pairs, replies, strict=True):
        mark = Mark(0.0, "", True) if reply.outcome in NO_ANSWER else search.task.metric(row, reply.text)
        search.counts.unreadable += mark.unreadable
        found = Scored(row.id, mark.value, reply.text, mark.read, mark.unreadable)
        table.setdefault(one.id, {})[row.id] = found


def request(search: Search, candidate: Candidate, row: Row) -> wire.Request:
    """What the target gets, exactly as it is sent: greedy, so that a score is the candidate's and no draw's."""
    text, start = prompt(search.task, candidate.text, row.input, candidate.demo)
    return wire.Request(search.roles.target, text, max_tokens=search.task.answer_tokens, answer_start=start)
