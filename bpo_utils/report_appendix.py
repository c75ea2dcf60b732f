"""The appendix "Where every number comes from": a row for each number that the text uses."""

from typing import Any

from bpo_utils.report_format import Number
from bpo_utils.report_tables import escaped
from bpo_utils.report_text import Text, anchor, linked

LONGEST = 60  # characters of a text value


def lines(it: Text, pdf: bool) -> list[str]:
    """The appendix as Markdown. Raises WrongUse for a number whose maker is not found."""
    ours = [it.used[name] for name in sorted(it.used) if it.used[name].source is None]
    published = [it.used[name] for name in sorted(it.used) if it.used[name].source is not None]
    made = ["", f"# {it.say('appendix')} {{#sec-numbers}}", ""]
    if ours:
        heads = ("name", "value", "file", "maker", "run", "code")
        made += [it.say("appendix_run"), "", *_table(heads, [_ours(number, it, pdf) for number in ours], it)]
    if published:
        heads = ("name", "value", "place")
        made += [
            "",
            it.say("appendix_published"),
            "",
            *_table(heads, [_published(each, it, pdf) for each in published], it),
        ]
    return made


def _table(heads: tuple[str, ...], rows: list[list[str]], it: Text) -> list[str]:
    lines = ["| " + " | ".join(it.say(head) for head in heads) + " |", "|" + ":--|" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _ours(number: Number, it: Text, pdf: bool) -> list[str]:
    first = [_name(number, pdf), _value(number.value, it), f"`{number.file}`"]
    if not number.file.split("/")[0][:2].isdigit():  # a profile: written by a person, not by a notebook
        return [*first, "", "", ""]
    maker = it.maker(number.file, number.key)
    return [*first, linked(maker, it), f"`{maker.run}`", f"`{maker.code}`"]


def _published(number: Number, it: Text, pdf: bool) -> list[str]:
    return [_name(number, pdf), _value(number.value, it), escaped(number.source[it.language])]


def _name(number: Number, pdf: bool) -> str:
    """The name with the place that links in the text lead to."""
    target = f"`#metadata(none)<{anchor(number.name)}>`{{=typst}}" if pdf else f"[]{{#{anchor(number.name)}}}"
    return f"{target}`{number.name}`"


def _value(value: Any, it: Text) -> str:
    if isinstance(value, dict):
        value = value[it.language]
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return escaped(shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…")
