"""ABO's procedures (numbered steps) and demonstrations (a row worked step by step), read out of replies and checked."""

import re
from collections.abc import Sequence

from bpo_utils.search import prompts
from bpo_utils.search.candidates import normal
from bpo_utils.search.task import Row, Task

STEP = re.compile(r"^(\d+)(?:[.．][ \t]+|[、)）][ \t]*)", re.MULTILINE)  # 1. or 1) or 1、
DONE = re.compile(r"^\W*Step (\d+)", re.MULTILINE)  # models like to print it in bold
ANSWER = re.compile(r"^\W*Answer[ *]*[:：][ *]*", re.MULTILINE)


def parts(procedure: str) -> dict[int, str]:
    """The steps of a procedure by number, and as 0 what stands before the first; {} if they do not count 1, 2, 3 ...

    A step goes on to the next line that begins with a number, so smaller steps inside it are indented or lettered.
    """
    before, *rest = STEP.split(procedure)
    numbers = [int(each) for each in rest[::2]]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        return {}
    return {0: before.strip()} | dict(zip(numbers, (text.strip() for text in rest[1::2]), strict=True))


def written(reply: str) -> str:
    """The procedure of a reply; "" if it holds none of two steps or more."""
    text = next(iter(prompts.tagged(reply, "instruction")), "")
    return text if len(parts(text)) > 2 else ""


def located(reply: str, procedure: str) -> tuple[int, str] | None:
    """The failing step and its correction; None if a part is missing or there is no such step."""
    number = next(iter(prompts.tagged(reply, "step")), "")
    correction = next(iter(prompts.tagged(reply, "correction")), "")
    known = number.isdecimal() and int(number) > 0 and int(number) in parts(procedure)
    return (int(number), correction) if known and correction else None


def refined(reply: str, procedure: str, failing: int) -> str:
    """The procedure of a reply, if the failing step and nothing else has changed; else ""."""
    text = written(reply)
    old, new = ({number: normal(step) for number, step in parts(each).items()} for each in (procedure, text))
    changed = [number for number in old if new.get(number) != old[number]]
    return text if set(old) == set(new) and changed == [failing] else ""


def worked(reply: str, procedure: str, task: Task, row: Row) -> str:
    """The demonstration of a reply, the row's input before it; "" if it is to be rejected: a step is missing or out of
    order, or the metric does not find its answer (what stands after the last "Answer:" that begins a line) right."""
    text = next(iter(prompts.tagged(reply, "demonstration")), "")
    named = list(dict.fromkeys(int(number) for number in DONE.findall(text)))
    *before, answer = ANSWER.split(text)
    wanted = [number for number in parts(procedure) if number]
    right = bool(before) and task.metric(row, answer.strip()).value >= task.right
    return f"Input: {row.input}\n{text}" if right and named == wanted else ""


def listed(corrections: Sequence[str]) -> str:
    """Corrections, each between its tags."""
    return "\n".join(f"<correction>\n{one}\n</correction>" for one in corrections)
