"""ProTeGi with a curriculum: easy errors first. Everything is ProTeGi's (protegi.py) but the rows that reasons see.

    D <- the difficulty of every train row
    in round t of ProTeGi: A <- the rows that the schedule allows by now, from easy to hard
        M <- a minibatch of A; for each parent p: E <- rows of M that p gets wrong; too few: more of A, then harder rows
        E is sorted by D and cut into consecutive groups, the easiest errors first
    candidates are estimated on all train rows, as in ProTeGi: scores of different rounds must stay comparable

A variant that a source document proposes; no paper gives settings, so those that ProTeGi has not are ours. Difficulty
measurer and training scheduler: Wang, Chen and Zhu (arXiv 2010.13166). Easy-to-hard also changes which labels and
lengths are shown; both stand in the trace. Controls: `order` hard_first and random (which pay for the measurer, too),
`measurer` random (which pays nothing), `shuffled`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import model_validator

from bpo_utils.profile import Model
from bpo_utils.search import difficulty, schedule
from bpo_utils.search import gradients as part
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import errors, evaluate, mean
from bpo_utils.search.methods import protegi
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.state import Search, note, steps
from bpo_utils.search.task import Row

NAME, PAPER, KNOB = "ProTeGi with a curriculum", "arXiv 2305.03495 and 2010.13166", "rounds"
BATCHES = 4  # in which extra rows are run, so that none are run once there are errors enough


class Settings(protegi.Settings):
    measurer: Literal[
        "error_rate", "margin", "entropy", "length", "log_prob", "teacher", "rating", "self_paced", "random"
    ] = "error_rate"
    k: int = 4  # runs of the target that error rate, margin and entropy are measured with
    runs: Literal["paraphrases", "samples"] = "paraphrases"
    teacher: Model | None = None  # the stronger model; null: the optimizer's
    scheduler: Literal["linear", "root", "baby_steps", "one_pass", "band"] = "root"
    first_share: float = 0.2  # of the rows, before round 1
    growth: int | None = None  # the round from which on all rows are there; null: the last
    power: float = 2.0  # of the root
    buckets: int | None = None  # of baby steps and one pass; null: one for each round
    width: float = 0.25  # of the band, on each side of an error rate of 0.5
    order: Literal["easy_first", "hard_first", "random"] = "easy_first"
    shuffled: bool = False  # control: the same rows, in no order within the round
    # groups of errors: consecutive; within: ProTeGi's random groups, each listed from easy to hard; sequential:
    # consecutive, and each reason edits what the last one made
    variant: Literal["consecutive", "within", "sequential"] = "consecutive"
    extra_rows: int = 64  # more rows for a parent with fewer than errors_per_gradient errors, in a round

    @model_validator(mode="after")
    def _band_of_shares(self) -> "Settings":
        if self.scheduler == "band" and self.measurer not in difficulty.SHARES:
            raise ValueError(f"band needs a measurer whose values are shares ({', '.join(difficulty.SHARES)})")
        return self


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """Calls at most: ProTeGi's, the measurer's, the extra rows, and one look at dev a round for baby steps."""
    plain, measuring = protegi.plan(settings, sizes), difficulty.cost(settings, sizes.train)
    parents = plain.optimizer // protegi.asked(settings)[1]
    more = parents * extra(settings, sizes.train) + (settings.rounds - 1) * looks(settings, sizes.dev)
    return Plan(plain.target + measuring.target + more, plain.optimizer + measuring.optimizer)


def extra(settings: Settings, train: int) -> int:
    """Rows beyond the minibatch that one parent may be run on in a round."""
    return min(settings.extra_rows, train - min(settings.minibatch, train))


def looks(settings: Settings, dev: int) -> int:
    """Target calls of a look at dev, by which baby steps see whether the best instruction got better."""
    return dev if settings.scheduler == "baby_steps" else 0


def run(search: Search, settings: Settings) -> Candidate:
    """The best on dev of the last beam and the seed."""
    train, dev = search.task.train, search.task.dev
    beam, seen = protegi.first(search, settings), []
    hard, look = difficulty.measured(search, settings), looks(settings, len(dev))

    def worst() -> int:
        more = len(beam) * extra(settings, len(train)) + look
        return protegi.round_cost(settings, len(train), len(beam)) + more

    for t in steps(search, settings.rounds, worst, protegi.keep(settings, len(dev)) - look):
        if settings.measurer == "self_paced":
            hard = difficulty.self_paced(search, beam, train)
        if look:
            evaluate(search, beam[:1], dev)
            seen.append(mean(search, beam[0], dev))
        rows, later = schedule.available(train, hard, settings, t, seen, search.seed)
        wrong, offered = offer(search, beam, rows, later, settings)
        places = {row.id: place for place, row in enumerate([*rows, *later])}
        groups = [part.Wrong(one, group) for one in beam for group in grouped(search, wrong[one.id], places, settings)]
        mend = part.edits_in_turn if settings.variant == "sequential" else part.edits
        beam = part.chosen(search, protegi.expand(search, beam, groups, wrong, settings, mend), settings)
        note(search, beam[0])
        search.trace[-1] |= schedule.balance(offered, len(rows), hard)
    return protegi.final(search, beam)


def offer(
    search: Search, beam: Sequence[Candidate], rows: Sequence[Row], later: Sequence[Row], settings: Settings
) -> tuple[dict[str, list[Row]], list[Row]]:
    """(what each parent gets wrong, by its id; the rows that were offered). A parent with too few errors is run on more
    rows: easy rows alone give no errors, and without errors there is nothing to learn from."""
    line = search.rng.sample(rows, len(rows))
    offered, rest = line[: settings.minibatch], [*line[settings.minibatch :], *later]
    rest = rest[: settings.minibatch + settings.extra_rows - len(offered)]
    evaluate(search, beam, offered)
    wrong = {one.id: errors(search, one, offered) for one in beam}
    size = max(settings.errors_per_gradient, len(rest) // BATCHES)
    while rest and (lacking := [one for one in beam if len(wrong[one.id]) < settings.errors_per_gradient]):
        more, rest = rest[:size], rest[size:]
        evaluate(search, lacking, more)
        for one in lacking:
            wrong[one.id] += errors(search, one, more)
        offered += more
    return wrong, offered


def grouped(search: Search, wrong: Sequence[Row], places: Mapping[str, int], settings: Settings) -> list[list[Row]]:
    """A parent's errors in groups, by the curriculum's order."""

    def ordered(rows: Sequence[Row]) -> list[Row]:
        if settings.shuffled:
            return search.rng.sample(rows, len(rows))
        return sorted(rows, key=lambda row: places[row.id])

    if settings.variant == "within":
        return [ordered(group) for group in protegi.drawn(search, wrong, settings)]
    cut = schedule.buckets(ordered(wrong), settings.n_gradients) if wrong else []
    drawn = [search.rng.sample(group, min(settings.errors_per_gradient, len(group))) for group in cut]
    return [ordered(group) for group in drawn]
