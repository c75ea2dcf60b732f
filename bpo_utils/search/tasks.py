"""Tasks by name: the miniature's, the synthetic landscape, and real ones."""

from dataclasses import replace

from bpo_utils.profile import Searching, SearchRows
from bpo_utils.search.task import Task


def of(searching: Searching) -> Task:
    """The task of a profile's section, with what the section changes: first instruction, position, form, answer limit.

    Raises what `load` raises, and ValueError for an unknown position.
    """
    task = load(searching.task, searching.rows, searching.contained)
    given = {"seed": searching.instruction, "position": searching.position, "form": searching.form}
    given["answer_tokens"] = searching.answer_tokens
    return replace(task, **{name: value for name, value in given.items() if value is not None})


def load(name: str, rows: SearchRows, contained: bool = False) -> Task:
    """The task of a name, with so many rows in each set: instruction (the miniature's), landscape, bbh/<name>, liar,
    gsm8k. `contained`: see `real_tasks.load`.

    Raises ValueError for another name or too few rows, FileNotFoundError or ConnectionError where a real task's file
    cannot be had.
    """
    if name == "instruction":
        from bpo_utils.search import mini_task

        return mini_task.task(rows.train, rows.dev, rows.test, rows.draw)
    if name == "landscape":
        from bpo_utils.search import landscape

        return landscape.task(rows.train, rows.dev, rows.test, rows.draw)
    from bpo_utils.search import real_tasks

    return real_tasks.load(name, rows, contained)
