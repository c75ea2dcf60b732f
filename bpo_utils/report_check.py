"""What is wrong with the report's texts, and what of its results is stale. Nothing is built."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpo_utils import notebook, paths, report, report_text, runner
from bpo_utils.notebook import WrongUse
from bpo_utils.profile import Profile
from bpo_utils.report_makers import Makers, stem_path
from bpo_utils.report_text import CAPTION, DIRECTIVE, FIGURE, MARK, NOT_PROSE, PLACEHOLDER, Line

UNIT = r"(?:%|％|‰|per ?cent\b|percentage points?\b|points?\b|个?百分点)"
TYPED = (
    re.compile(rf"[+−–-]?\d[\d.,]*[\s\u00a0-]*{UNIT}"),
    re.compile(r"(?<![\w.])[+−]\s?\d+(?:\.\d+)?(?!\w|\.\d)"),  # a signed number, such as a net win
    re.compile(r"(?<![\w.-])-\d+\.\d+"),
    re.compile(r"百分之[\d零一二三四五六七八九十百点]+"),
)
# The level of an interval is a convention, not a result.
LEVEL = re.compile(
    r"\b9[59]\s*[%％](?=[^.。]*(?:interval|confidence|区间|置信))|(?:interval|区间)[^.。]*?\b9[59]\s*[%％]",
    re.IGNORECASE,
)
NEGATIVE_SPACE = r"\!"  # pandoc makes an em of it in Typst, and signs come to lie on each other
CITED = re.compile(r"(?<![\w@\\])@([A-Za-z][\w:-]*\w)")
UP_TO_DATE, NOT_RUN = "up to date", "not run (a further experiment)"


def problems(folder: Path = paths.REPORT) -> list[str]:
    """Everything that is wrong in `en.md` and `zh.md` themselves, each with file and line; no run is needed.

    A typed percentage, net win or difference in points; a formula that the PDF would draw wrongly; and every section in
    which the two languages differ in heading, figures, tables, placeholders, citations or conditions.
    """
    found: list[str] = []
    structures = []
    for language in ("en", "zh"):
        path = folder / f"{language}.md"
        if not path.exists():
            found.append(f"{paths.shown(path)} is missing")
            continue
        _, lines = report_text.parts(path)
        found += [f"{paths.shown(path)}, line {at}: {told}" for at, told in typed(lines)]
        structures.append((path, sections(lines)))
    if len(structures) == 2:
        found += _parity(*structures)
    return found


def typed(lines: list[Line]) -> Iterator[tuple[int, str]]:
    """(line, problem) of every number that should be a placeholder, and of every formula that comes out wrong."""
    for at, line, prose in report_text.with_prose(lines):
        if NEGATIVE_SPACE in line:
            yield at, f"{NEGATIVE_SPACE} in a formula is drawn too wide in the PDF; leave it out"
        if not prose:
            continue
        text = NOT_PROSE.sub(" ", line)
        text = re.sub(r"<!--.*?-->|\{#[\w-]+\}|\]\([^)\s]*\)|https?://\S+", " ", text)
        text = LEVEL.sub(" ", PLACEHOLDER.sub("\u0001", text))
        for pattern in TYPED:
            for hit in pattern.finditer(text):
                told = "a result is typed; use a placeholder (bpo report --numbers lists them)"
                yield at, f"{hit[0].strip()!r}: {told}"
            text = pattern.sub(" ", text)


def sections(lines: list[Line]) -> list[tuple[int, str, dict[str, list[str]]]]:
    """(line, heading's level and id, what is in it) of each section; placeholders are sorted: word order differs."""
    found: list[tuple[int, str, dict[str, list[str]]]] = [(lines[0][0] if lines else 1, "before the first heading", {})]
    for at, line, prose in report_text.with_prose(lines):
        if not prose:
            continue
        if heading := re.match(r"(#+)\s.*?(\{[^}]*\})?\s*$", line):
            found.append((at, f"heading {heading[1]} {heading[2] or ''}".strip(), {}))
        inside = found[-1][2]
        if mark := MARK.match(line):
            inside.setdefault("conditions", []).append(mark[1])
        elif directive := DIRECTIVE.match(line):
            inside.setdefault("tables and examples", []).append(f"{directive[1]}{directive[2].rstrip()}")
        else:
            text = NOT_PROSE.sub(" ", line)
            for hit in PLACEHOLDER.finditer(text):
                inside.setdefault("placeholders", []).append("|".join(part.strip() for part in hit[1].split("|")))
            inside.setdefault("citations", []).extend(CITED.findall(PLACEHOLDER.sub(" ", text)))
        for kind, pattern in (("figures", FIGURE), ("captions", CAPTION)):
            if hit := pattern.match(line):
                inside.setdefault(kind, []).append(f"{hit.groupdict().get('file', '')}#{hit['id']}")
    for _, _, inside in found:
        for kind in ("placeholders", "citations"):
            inside[kind] = sorted(inside.get(kind, []))
    return found


def _parity(ours: tuple[Path, list], theirs: tuple[Path, list]) -> list[str]:
    found = []
    names = [paths.shown(path) for path, _ in (ours, theirs)]
    if len(ours[1]) != len(theirs[1]):
        found.append(f"{names[0]} has {len(ours[1]) - 1} headings, {names[1]} has {len(theirs[1]) - 1}")
    for (at, heading, here), (there_at, other, there) in zip(ours[1], theirs[1], strict=False):
        where = f"{names[0]}, line {at}, against {names[1]}, line {there_at}"
        if heading != other:
            return [*found, f"{where}: {heading} against {other}"]
        for kind in sorted({*here, *there}):
            if here.get(kind, []) != there.get(kind, []):
                told = _only(names, here.get(kind, []), there.get(kind, []))
                found.append(f"{where}: the {kind} differ; {told}")
    return found


def _only(names: list[str], left: list[str], right: list[str]) -> str:
    told = []
    for name, these, those in ((names[0], left, right), (names[1], right, left)):
        if more := [each for each in dict.fromkeys(these) if these.count(each) > those.count(each)]:
            told.append(f"only in {name}: {', '.join(more)}")
    return "; ".join(told) or "in another order"


def states(profile: Profile, notebooks: Path = paths.NOTEBOOKS) -> list[list[str]]:
    """[file, state, made by] of every figure and JSON file that the profile's notebooks declare, a row per figure."""
    place = runner.place_of(profile.name)
    everything = notebook.find(notebooks)
    makers = Makers(everything, place)
    rows = []
    for each in runner.of_profile(profile, everything, place):
        why = runner.why_run(each, each.values({"profile": profile.name}), place)
        further = why == "never run" and each.number in profile.further
        state = NOT_RUN if further else f"stale: {why}" if why else UP_TO_DATE
        files: dict[str, list[str]] = {}
        for name in each.writes:
            if name.startswith("figures/"):
                files.setdefault(stem_path(name), []).append(name)
            elif name.endswith(".json"):
                files[name] = [name]
        for name, written in files.items():
            missing = not further and not all(place.find(one).exists() for one in written)
            rows.append([name, f"missing: {why or 'deleted'}" if missing else state, _maker(makers, each.name, name)])
    return rows


def _maker(makers: Makers, notebook_name: str, name: str) -> str:
    try:
        return f"{notebook_name}, cell {makers.cell(name)[1]}"
    except WrongUse as error:
        return f"{notebook_name}: {error}"


def built(sources: report.Sources) -> list[list[str]]:
    """[file, state, made by] of the report's own files: whether each was built from what is there now."""
    if sources.profile.data.source != "miniature":
        return []  # it has no report
    known, now, rows = report.recorded(sources), report.made_from(sources), []
    for language in report.LANGUAGES:
        for name in (f"{language}.html", f"{language}.pdf"):
            there = language in known and (report.folder_of(sources) / name).is_file()
            state = _older(known[language], now) if there else "not built"
            rows.append([f"report/{name}", state, "bpo report"])
    return rows


def _older(then: dict[str, Any], now: dict[str, Any]) -> str:
    ran = [name for name in sorted({*then["runs"], *now["runs"]}) if then["runs"].get(name) != now["runs"].get(name)]
    why = [f"{', '.join(ran)} ran since"] if ran else []
    why += [
        told
        for key, told in (("texts", "its texts changed"), ("code", "the package code changed"))
        if then[key] != now[key]
    ]
    return f"stale: {'; '.join(why)}" if why else UP_TO_DATE


def undeclared(profile: Profile, folder: Path = paths.REPORT, notebooks: Path = paths.NOTEBOOKS) -> list[str]:
    """Figures, in the figures' folder or in the texts, that no notebook declares that it writes."""
    place = runner.place_of(profile.name)
    makers = Makers(notebook.find(notebooks), place)
    files = {f"figures/{path.stem}" for path in place.figures.glob("*.*") if path.suffix in (".png", ".svg", ".pdf")}
    for path in sorted(folder.glob("??.md")):
        files |= {hit["file"] for _, line in report_text.parts(path)[1] if (hit := FIGURE.match(line))}
    return sorted(file for file in files if not makers.declared(file))
