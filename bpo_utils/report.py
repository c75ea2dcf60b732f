"""The course report, built from a finished run: no number in it is typed. Syntax and names: report/README.md."""

import datetime
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from bpo_utils import (
    ledger,
    notebook,
    paths,
    records,
    report_appendix,
    report_build,
    report_notebooks,
    report_numbers,
    report_published,
    report_tables,
    report_text,
)
from bpo_utils.notebook import Place, WrongUse
from bpo_utils.profile import Profile
from bpo_utils.report_format import text
from bpo_utils.report_makers import PAGES, Makers, commit_of
from bpo_utils.report_numbers import LANGUAGES, Numbers
from bpo_utils.report_text import Text
from bpo_utils.runner import place_of

MADE_FROM = "report.json"  # in the run folder
LANGUAGE_TAGS = {"en": "en", "zh": "zh-Hans"}


@dataclass(frozen=True)
class Sources:
    """What a report is built from: a run, the folder of the texts, the notebooks. Everything is read once."""

    profile: Profile
    report: Path = paths.REPORT
    notebooks: Path = paths.NOTEBOOKS

    @cached_property
    def makers(self) -> Makers:
        """Finds the cell that made a file."""
        return Makers(notebook.find(self.notebooks), place_of(self.profile.name), self.report)

    @cached_property
    def numbers(self) -> Numbers:
        """Every name that the report may use, of the run and of the published numbers."""
        numbers = report_numbers.of_run(self.profile, place_of(self.profile.name))
        report_published.add(numbers, self.report)
        return numbers

    @cached_property
    def words(self) -> dict[str, Any]:
        """The words that are added to the texts."""
        return report_tables.read_words(self.report)

    @cached_property
    def examples(self) -> Callable[[str], report_tables.Example]:
        """The worked example of a call, the same one for both languages."""
        models = [model.name for model in self.profile.answer_models]
        return cache(lambda call: report_tables.find_example(call, self.makers.place, models))


def build(sources: Sources, languages: tuple[str, ...] = LANGUAGES) -> list[Path]:
    """Build HTML and PDF of each language into `runs/<profile>/report`; returns the files written.

    Beside them the executed notebooks are written as pages, where the links lead.
    Raises WrongUse if the run is not finished, or with everything that is wrong in the texts; nothing is written then.
    """
    finished(sources)
    made: dict[str, bytes] = {}
    problems = []
    with tempfile.TemporaryDirectory() as temporary:
        for language in languages:
            try:
                made |= _both(sources, language, Path(temporary) / language)
            except WrongUse as error:
                problems.append(str(error))
        if problems:
            raise WrongUse("the report cannot be built\n" + "\n".join(problems))
        known = recorded(sources)
        there = tuple(language for language in LANGUAGES if language in known or language in languages)
        pages = report_notebooks.pages(sources.makers, there, Path(temporary) / languages[0])
    folder = folder_of(sources)
    shutil.rmtree(folder / PAGES, ignore_errors=True)
    for name, content in pages.items():
        records.write_bytes(folder / PAGES / name, content)
    written = [records.write_bytes(folder / name, content) for name, content in made.items()]
    records.write_json(sources.makers.place.run / MADE_FROM, known | dict.fromkeys(languages, made_from(sources)))
    return written


def folder_of(sources: Sources) -> Path:
    """Where a run's report is."""
    return sources.makers.place.run / "report"


def made_from(sources: Sources) -> dict[str, Any]:
    """What decides a report: {texts, code: hashes, runs: id of each notebook's last run}."""
    runs = {name: entry.id for name, entry in sources.makers.entries.items() if entry.status == "done"}
    return {"texts": ledger.digest(sources.report), "code": ledger.code_hash(), "runs": runs}


def recorded(sources: Sources) -> dict[str, Any]:
    """`made_from` as it was when each language was built; empty if none was."""
    path = sources.makers.place.run / MADE_FROM
    return records.read_json(path) if path.is_file() else {}


def finished(sources: Sources) -> None:
    """Raise WrongUse unless every notebook of the course's way ran to its end, in the miniature."""
    profile = sources.profile
    if profile.data.source != "miniature":
        told = "the report's text is about the miniature, and its numbers would be called so"
        raise WrongUse(f"profile {profile.name} is no miniature; {told}; build it with --profile mini")
    states = {name[:2]: entry.status for name, entry in sources.makers.entries.items()}
    waiting = [number for number in profile.notebooks if states.get(number) != "done"]
    if waiting:
        told = ", ".join(f"{number} ({states.get(number, 'never run')})" for number in waiting)
        raise WrongUse(f"not done: {told}; run bpo run --profile {profile.name} first")


def _both(sources: Sources, language: str, folder: Path) -> dict[str, bytes]:
    """The two files of one language, by name."""
    report_build.prepare(folder, sources.report)
    it = text_of(sources, language, folder)
    body = report_text.filled(it)
    texts = ["\n".join([body, *report_appendix.lines(it, pdf)]) + "\n" for pdf in (False, True)]
    words = _words(it)
    ended = max(_ended(entry) for entry in sources.makers.entries.values())
    return {
        f"{language}.html": report_build.html(texts[0], folder, words).encode("utf-8"),
        f"{language}.pdf": report_build.pdf(texts[1], folder, words, int(ended.timestamp())),
    }


def text_of(sources: Sources, language: str, folder: Path) -> Text:
    """One language's text with all that fills it; pictures go into `folder`/images."""
    makers, words = sources.makers, sources.words
    return Text(
        path=sources.report / f"{language}.md",
        language=language,
        numbers=sources.numbers,
        words=words,
        maker=makers.of,
        figure=lambda file: _figure(file, language, makers.place, folder),
        example=lambda call: report_tables.example(call, sources.examples(call), words, language),
        done=lambda number: report_numbers.stage_done(number, makers.place, makers.entries),
        run=_run(sources, words["values"][sources.profile.label][language]),
    )


def picture(file: str, language: str, place: Place) -> Path | None:
    """The picture behind a figure's name: in the language if there is one, SVG before PNG; None if it is missing."""
    stems = [f"{file}_zh", file] if language == "zh" else [file]
    candidates = [place.find(f"{stem}.{ending}") for stem in stems for ending in ("svg", "png")]
    return next((path for path in candidates if path.is_file()), None)


def _figure(file: str, language: str, place: Place, folder: Path) -> str | None:
    path = picture(file, language, place)
    if path is None:
        return None
    name = f"images/{file.replace('/', '-')}{path.suffix}"
    shutil.copyfile(path, folder / name)
    return name


def _run(sources: Sources, label: str) -> dict[str, str]:
    entries, profile = sources.makers.entries, sources.profile
    last = max(entries.values(), key=_ended)
    seconds = sum(entry.seconds or 0 for entry in entries.values())
    told = {"label": label, "profile": profile.name, "id": last.id[:8], "code": last.code_hash[:8]}
    return told | {"date": _ended(last).date().isoformat(), "minutes": f"{seconds / 60:.1f}"}


def _words(it: Text) -> dict[str, str]:
    """What the page itself says: contents, header, and which run it was built from."""
    import yaml

    header = yaml.safe_load("\n".join(report_text.parts(it.path)[0][1:-1]))
    if header.get("lang") != LANGUAGE_TAGS[it.language] or not header.get("title"):
        raise WrongUse(f"{paths.shown(it.path)}: the header needs a title and lang: {LANGUAGE_TAGS[it.language]}")
    commit = commit_of(it.run["code"])
    told = it.say("commit", commit=commit) if commit else ""
    label = it.run["label"]
    return {
        "language": it.language,
        "contents": it.say("contents"),
        "built": it.say("built", **it.run | {"commit": told}),
        "header-note": it.say("header", label=label[:1].upper() + label[1:]),
        "short-title": header["title"],
    }


def _ended(entry: ledger.Entry) -> datetime.datetime:
    return datetime.datetime.fromisoformat(entry.ended or entry.started)


def listed(numbers: Numbers, pattern: str, language: str = "en") -> list[list[Any]]:
    """Rows of name, text and unit of all numbers whose name contains the pattern (a regular expression)."""
    found = [number for name, number in sorted(numbers.by_name.items()) if re.search(pattern, name)]
    return [[each.name, text(each, (), language)[:70], each.kind] for each in found]
