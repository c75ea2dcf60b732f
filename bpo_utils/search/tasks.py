"""Tasks by name: the miniature's, the synthetic landscape, and real ones."""

from bpo_utils.profile import SearchRows
from bpo_utils.search.task import Task


def load(name: str, rows: SearchRows) -> Task:
    """The task of a name, with so many rows in each set: instruction (the miniature's), landscape, bbh/<name>, liar,
    gsm8k. Raises ValueError for another name or too few rows, FileNotFoundError or ConnectionError where a real task's
    file cannot be had."""
    if name == "instruction":
        from bpo_utils.search import mini_task

        return mini_task.task(rows.train, rows.dev, rows.test, rows.draw)
    if name == "landscape":
        from bpo_utils.search import landscape

        return landscape.task(rows.train, rows.dev, rows.test, rows.draw)
    from bpo_utils.search import real_tasks

    return real_tasks.load(name, rows)
