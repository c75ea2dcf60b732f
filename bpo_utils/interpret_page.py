"""One HTML page with the bars of `interpret` and, a click away, the examples behind each: prompts, answers, verdicts.

Made like the page of judgments: data and texts are JSON in the page, they become text nodes and never HTML, and the
page's policy forbids it to load anything. The address names the bar (`interpret_figure.fragment`), so that a figure or
a report can link to it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bpo_utils import interpret, judgments, plots, records, strategies
from bpo_utils.interpret_figure import group_label
from bpo_utils.records import Answer, TestPrompt, Verdict
from bpo_utils.rewrite_reading import Read

MOST_BYTES = 6_000_000  # of texts; a browser opens such a page in a second or two
CUTS = (8000, 4000, 2000, 1000, 600, 400, 250)  # characters kept of a text where all together are more
CUT = "… [{n} more characters]"


def page(
    label: str,
    prompts: list[TestPrompt],
    answers: list[Answer],
    verdicts: list[Verdict],
    reads: Sequence[Read],
    path: Path,
) -> Path:
    """Write the page of the rewriter bpo and return its path. `label` is the profile's; the title shows it.

    Every bar of `interpret.panels` is a link, and shows as many examples as its n. The same rows make the same bytes.
    Raises ValueError if no verdict is on bpo, or one has no prompt, answers or rewrite.
    """
    chosen = [row for row in verdicts if row.rewriter == "bpo"]
    panels = interpret.panels(reads, chosen)
    if missing := {(row.test_set, row.id) for row in chosen} - {row.key for row in reads}:
        first = " ".join(min(missing))
        raise ValueError(
            f"{len(missing)} questions judged, but not rewritten, such as {first}; run notebooks 04 and 05"
        )
    data = judgments.page_data(label, prompts, answers, chosen, ())
    data["texts"], data["longest"] = shortened(data["texts"])
    data["small"] = interpret.SMALL
    data |= _groups(panels, reads)
    data["agreement"] = [
        {name: row[name] for name in ("class", "both", "label_only", "rule_only", "n")}
        for row in strategies.agreement()["held_out"]
    ]
    return records.write_text(path, judgments.fill("examples.html", f"Examples behind the bars: {label}", data))


def shortened(texts: Sequence[str], most: int = MOST_BYTES) -> tuple[list[str], int | None]:
    """The texts, and the length they were cut to so that together they have at most `most` bytes (None: not cut).

    A cut text says how much is gone. The shortest length of CUTS is taken even if that is still too much.
    """
    if sum(len(text.encode(errors="replace")) for text in texts) <= most:
        return list(texts), None
    for longest in CUTS:
        cut = [_cut(text, longest) for text in texts]
        if sum(len(text.encode(errors="replace")) for text in cut) <= most:
            break
    return cut, longest


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + CUT.format(n=f"{len(text) - longest:,}")


def _groups(panels: list[dict], reads: Sequence[Read]) -> dict[str, Any]:
    """Panels with the questions of each group by number, and what was read in each question."""
    words = plots._words("en", "")
    number = {row.key: at for at, row in enumerate(reads)}
    behind = interpret.members(reads)
    for panel in panels:
        panel["title"] = words[f"by {panel['panel']}"]
        for row in panel["groups"]:
            row["label"] = group_label(panel["panel"], row, words)
            row["questions"] = [number[key] for key in behind[panel["panel"]][row["group"]]]
    read = [panel for panel in panels if panel["panel"] in ("strategy", "harm", "truth")]
    named = {row["group"]: row["label"] for panel in read for row in panel["groups"]}
    questions = [
        {
            "key": " ".join(row.key),
            "found": [named.get(name, name) for name in row.strategies + row.harms],
            "truth": [named.get(name, name) for name in row.truth],
            "evidence": [f"{named.get(name, name)}: {text}" for name, text in row.evidence.items()],
            "growth": round(row.growth, 2),
        }
        for row in reads
    ]
    return {"panels": panels, "questions": questions}
