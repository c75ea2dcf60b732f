"""Control: the seed prompt itself. What a search cannot beat, it need not have been made for."""

from bpo_utils.profile import Section
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import best
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.state import Search, note, start

NAME, PAPER, KNOB = "seed prompt", "control", "rounds"


class Settings(Section):
    rounds: int = 1  # there is nothing to repeat


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """One pass over the dev rows."""
    return Plan(target=sizes.dev, optimizer=0)


def run(search: Search, settings: Settings) -> Candidate:
    """The instruction that the task starts from, scored on dev."""
    (seed,) = best(search, [start(search)], search.task.dev)
    note(search, seed)
    return seed
