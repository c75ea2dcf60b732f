"""What a search can cost in US dollars, before it starts: a line for the target and one for the optimizer.

What the models will be shown is not known yet, so both amounts rest on assumptions of ours, named below; the cap at run
time is exact.
"""

from collections.abc import Sequence

from bpo_utils.chat import capabilities, money, wire
from bpo_utils.profile import Model, Price, Searching
from bpo_utils.search import programs
from bpo_utils.search.candidates import LONGEST
from bpo_utils.search.plan import Plan
from bpo_utils.search.task import Row, Task, prompt

INSTRUCTION = 240  # letters of an instruction that is to be expected; at worst LONGEST
SHOWN, SHOWN_WORST = 4, 8  # rows with answers in a question to the optimizer
FRAME = 2000  # letters of a question to the optimizer without its rows; at worst 5 x LONGEST (OPRO shows 20)
REPLY = 1024  # tokens that the optimizer may write (`propose.ask`)


def lines(searching: Searching, task: Task, most: Plan, measured: int) -> list[money.Cost]:
    """Two lines of a bill. `most`: the search's calls; `measured`: those of the target after it.

    At worst every reply of the optimizer is asked for `searching.tries` times.
    """
    target, optimizer = searching.target, searching.optimizer
    plain = [_asked(target, task, row, INSTRUCTION) for row in task.dev]
    longest = _asked(target, task, _longest(task), LONGEST)
    answer = money.EXPECTED_SHARE * task.answer_tokens
    expected = sum(map(wire.expected_input, plain)) / len(plain)
    found = [_cost("target", target, most.target + measured, (expected, answer), wire.worst_usage(longest))]
    row = _longest(task)
    letters = FRAME + SHOWN * (sum(len(one.input + one.gold) for one in task.train) / len(task.train) + 4 * answer)
    bytes_ = 5 * LONGEST + SHOWN_WORST * (len((row.input + row.gold).encode()) + 4 * task.answer_tokens)
    usual, worst = (letters / 4, money.EXPECTED_SHARE * REPLY), wire.Usage(bytes_, REPLY)
    return [*found, _cost("optimizer", optimizer, most.optimizer, usual, worst, searching.tries)]


def price(model: Model) -> Price | None:
    """US dollars per million tokens; nothing for the programs of this room; None: unknown."""
    return Price(input=0.0, output=0.0) if model.provider in programs.PROGRAMS else capabilities.price(model)


def _cost(
    stage: str, model: Model, calls: int, usual: Sequence[float], worst: wire.Usage, tries: int = 1
) -> money.Cost:
    tariff = price(model)
    if tariff is None:
        return money.Cost(stage, model.name, calls, 0, calls, None, None)
    expected = wire.Usage(round(usual[0]), round(usual[1])).usd(tariff)
    return money.Cost(stage, model.name, calls, 0, calls, calls * expected, calls * tries * worst.usd(tariff))


def _asked(model: Model, task: Task, row: Row, letters: int) -> wire.Request:
    text, start = prompt(task, "x" * letters, row.input)
    return wire.Request(model, text, max_tokens=task.answer_tokens, answer_start=start)


def _longest(task: Task) -> Row:
    return max((*task.train, *task.dev, *task.test), key=lambda row: len(row.input.encode()))
