"""What notebooks show: the source of a function, rows as a table, before and after as a word diff."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bpo_utils import describe


def show_source(function: Callable[..., Any]) -> Any:
    """The source of a function of the package, highlighted: shared code is shown where it teaches, never copied."""
    from IPython.display import Code

    return Code(inspect.getsource(function), language="python")


def table(rows: Iterable[Any], digits: int = 3) -> Any:
    """Dicts or dataclass rows as a plain table; floats rounded to `digits`."""
    import pandas

    pandas.set_option("display.max_colwidth", 200)
    return pandas.DataFrame(list(rows)).round(digits)


def image(path: Path) -> Any:
    """A picture file as a cell's output, at page width."""
    from IPython.display import Image

    return Image(filename=str(path), width=900)


def html(text: str) -> Any:
    """A piece of HTML as a cell's output."""
    from IPython.display import HTML

    return HTML(text)


def before_after(rows: Iterable[tuple[str, str]]) -> Any:
    """(before, after) texts as word diffs below each other: removed words struck through, new ones underlined."""
    style = "margin:0 0 10px;padding:4px 10px;border-left:3px solid #0072B2;white-space:pre-wrap;max-width:60em"
    blocks = (f'<div style="{style}">{describe.word_diff(before, after)}</div>' for before, after in rows)
    return html("".join(blocks))
