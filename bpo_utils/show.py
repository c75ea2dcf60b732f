"""What notebooks show: the source of a function, rows as a table or waterfall, before and after as a word diff."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bpo_utils import describe


def show_source(function: Callable[..., Any]) -> Any:
    """The source of a function of the package, highlighted: shared code is shown where it teaches, never copied."""
    from IPython.display import Code

    return Code(inspect.getsource(function), language="python")


def table(rows: Iterable[Any], digits: int = 3, without: Iterable[str] = (), sideways: bool = False) -> Any:
    """Dicts or dataclass rows as a plain HTML table, text to the left.

    Floats are rounded to `digits` decimals (small ones to as many figures), the columns named in `without` left out;
    `sideways` puts one row's fields below each other.
    """
    import pandas

    frame = pandas.DataFrame(list(rows))
    if frame.empty:
        return html("no rows")
    frame = frame.drop(columns=list(without)).map(lambda value: _rounded(value, digits))
    if sideways:  # as text: a column of unlike things would turn counts into floats
        fields = frame.to_dict("records")[0].items()
        frame = pandas.DataFrame([{"name": name, "value": _text(value)} for name, value in fields])
    with pandas.option_context("display.max_colwidth", 300):
        text = frame.to_html(index=False, header=not sideways, border=0, justify="left", na_rep="")
    return html(text.replace("<td>", '<td style="text-align:left;white-space:pre-wrap">'))


def waterfall(steps: Iterable[dict[str, Any]]) -> Any:
    """[{filter, removed, kept}] as a table with bars: what each step kept (of all rows) and what it removed.

    The bars of `removed` have a scale of their own, or nobody would see them.
    """
    import pandas

    frame = pandas.DataFrame(list(steps))
    most = max(1, frame["removed"].max())  # nothing removed: no bar, not a full one
    look = frame.style.hide(axis="index").set_uuid("waterfall")  # a fixed name: the same rows give the same bytes
    look = look.bar("removed", vmin=0, vmax=most, color="#E69F00", width=90).bar(
        "kept", vmin=0, color="#56B4E9", width=90
    )
    return html(look.set_properties(**{"text-align": "left", "min-width": "9em"}).to_html())


def _rounded(value: Any, digits: int) -> Any:
    if not isinstance(value, float) or value == 0 or abs(value) >= 10**-digits:
        return round(value, digits) if isinstance(value, float) else value
    return float(f"{value:.{digits}g}")


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def image(path: Path) -> Any:
    """A picture file as a cell's output, at page width."""
    from IPython.display import Image

    return Image(filename=str(path), width=900)


def picture(pixels: Any) -> Any:
    """An array of pixels (height, width, 3) as a cell's output."""
    import io

    from IPython.display import Image
    from matplotlib import image as files

    packed = io.BytesIO()
    files.imsave(packed, pixels, format="png")
    return Image(data=packed.getvalue())


def html(text: str) -> Any:
    """A piece of HTML as a cell's output."""
    from IPython.display import HTML

    return HTML(text)


def before_after(rows: Iterable[tuple[str, str]]) -> Any:
    """(before, after) texts as word diffs below each other: removed words struck through, new ones underlined."""
    style = "margin:0 0 10px;padding:4px 10px;border-left:3px solid #0072B2;white-space:pre-wrap;max-width:60em"
    blocks = (f'<div style="{style}">{describe.word_diff(before, after)}</div>' for before, after in rows)
    return html("".join(blocks))
