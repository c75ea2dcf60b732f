"""The look of a card of `reproduced`: claim, published values, a line per measurement, verdict and likely reasons.

Everything shown is in the rows of cards.json; the words around it are those of facts/claims.yaml.
"""

import html
from typing import Any

AGREES, DIFFERS, UNCLEAR = "agrees", "differs", "cannot tell"
SIGNS = {AGREES: "✓", DIFFERS: "✗", UNCLEAR: "?"}  # the verdict is never told by colour alone
COLOURS = {AGREES: "#00694C", DIFFERS: "#A63F00", UNCLEAR: "#555555"}
WORST_FIRST = (DIFFERS, UNCLEAR, AGREES)
MOST_REASONS = 3
CARD = "border:1px solid #ccc;border-left:6px solid {};margin:0 0 14px;padding:8px 14px;max-width:60em;line-height:1.45"
SMALL = "font-size:90%;color:#444"
CELL = "text-align:left;padding:2px 14px 2px 0"


def block(rows: list[dict[str, Any]], language: str, words: dict[str, str]) -> str:
    """One card as HTML: the rows of one claim, with the words of one language."""
    first = rows[0]
    verdicts = {row["verdict"] for row in rows}
    worst = next(verdict for verdict in WORST_FIRST if verdict in verdicts)
    parts = [f"<div><b>{_safe(first['text'][language])}</b></div>"]
    if first["measure"]:
        parts.append(_small(first["measure"][language]))
    parts += [_small(line) for line in _published(first, language, words)]
    parts.append(_table(rows, language, words))
    notes = dict.fromkeys(note[language] for row in rows for note in row["notes"])
    parts += [_small(note) for note in notes]
    reasons = _reasons(rows, language)
    if reasons:
        points_of_list = "".join(f"<li>{_safe(reason)}</li>" for reason in reasons)
        parts.append(
            f'<div style="{SMALL}">{_safe(words["reasons"])}:<ul style="margin:2px 0">{points_of_list}</ul></div>'
        )
    parts.append(
        _small(words["comparable" if first["comparable"] else f"miniature {first['kind']}"], "font-style:italic")
    )
    return f'<div class="claim" style="{CARD.format(COLOURS[worst])}">{"".join(parts)}</div>'


def points(rate: float, sign: bool = True) -> str:
    """A fraction as points with one decimal, with its sign (a true minus) unless it is a size."""
    return f"{100 * rate:{'+z' if sign else ''}.1f}".replace("-", "−")


def _published(row: dict[str, Any], language: str, words: dict[str, str]) -> list[str]:
    lines = []
    for name in ("published", "also"):
        tables: dict[str, list[str]] = {}
        for one in row[name]:
            tables.setdefault(one["table"][language], []).append(f"{one['row'][language]} {points(one['value'])}")
        if tables:
            found = (f"{table}: {'; '.join(values)}" for table, values in tables.items())
            lines.append(f"{words[name]}: {'; '.join(found)}")
    if row["source"]:
        lines.append(f"{words['source']}: {row['source'][language]}")
    if row["band"]:
        equal = f"; {words['equal']}" if row["kind"] == "about_equal" else ""
        lines.append(f"{words['band']}: {points(row['band'][0])} … {points(row['band'][1])} {words['points']}{equal}")
    if row["margin"] is not None:
        lines.append(words["margin"].format(points=points(row["margin"], sign=False)))
    return lines


def _table(rows: list[dict[str, Any]], language: str, words: dict[str, str]) -> str:
    names = ["row", "yours", "interval", "n", *(["in band"] if rows[0]["band"] else []), "verdict"]
    head = "".join(f'<th style="{CELL}">{_safe(words[name])}</th>' for name in names)
    body = ""
    for row in rows:
        size = f"{row['n']:,}"
        if row["seeds"] > 1:
            size = words["seeds"].format(n=size, seeds=row["seeds"])
        cells = [row["label"], points(row["ours"]), f"[{points(row['low'])}, {points(row['high'])}]", size]
        if row["band"]:
            cells.append(words["inside" if row["inside"] else "outside"])
        texts = [_safe(cell) for cell in cells]
        colour, verdict = COLOURS[row["verdict"]], f"{row['sign']} {row['verdict_text'][language]}"
        texts.append(f'<b style="color:{colour}">{_safe(verdict)}</b>')
        body += "<tr>" + "".join(f'<td style="{CELL}">{text}</td>' for text in texts) + "</tr>"
    return f'<table style="margin:6px 0;border-collapse:collapse"><tr>{head}</tr>{body}</table>'


def _reasons(rows: list[dict[str, Any]], language: str) -> list[str]:
    """At most three, those of the worst verdict first; each verdict that occurs gives its first before any a second."""
    by_verdict = {row["verdict"]: [reason[language] for reason in row["reasons"]] for row in rows}
    lists = [by_verdict[verdict] for verdict in WORST_FIRST if verdict in by_verdict]
    longest = max(map(len, lists))
    in_turn = [reasons[place] for place in range(longest) for reasons in lists if place < len(reasons)]
    return list(dict.fromkeys(in_turn))[:MOST_REASONS]


def _small(text: str, style: str = "") -> str:
    return f'<div style="{SMALL};{style}">{_safe(text)}</div>'


def _safe(text: str) -> str:
    return html.escape(text)
