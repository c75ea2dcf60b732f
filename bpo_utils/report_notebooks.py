"""The executed notebooks as pages, for the report's links: code, outputs and formulas, in any browser and offline."""

import html
import json
import os
from pathlib import Path
from typing import Any

from bpo_utils import paths, records, report_build
from bpo_utils.ledger import Entry
from bpo_utils.notebook import Notebook, WrongUse
from bpo_utils.report_makers import PAGES, Makers
from bpo_utils.runner import executed_path

# A heading's own id may be that of a cell, which would then not be found.
FORM = "ipynb-auto_identifiers"
OPTIONS = ["--standalone", "--embed-resources", "--mathml", "--fail-if-warnings", "-V", "lang=en", "--css=style.css"]
# Outputs are HTML: no script in them may run, and nothing from outside is loaded.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
HEAD = f"""<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<style>
body {{ max-width: 64rem; }}
.cell:target {{ outline: 3px solid #e0b400; outline-offset: 6px; border-radius: 4px; scroll-margin-top: 1rem; }}
.output {{ margin: 0.6rem 0 1.4rem; overflow-x: auto; }}
.output img {{ max-width: 100%; height: auto; }}
.output pre {{ background: none; border-left: 3px solid var(--line); border-radius: 0; margin: 0.4rem 0; }}
.output pre, .output pre code {{ font: 0.84rem/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }}
.output table {{ width: auto; }}
</style>
"""
TOP = """<p class="note"><strong>{name}</strong> as it was executed: profile {profile}, run <code>{run}</code>, code
<code>{code}</code>, {date}. <a href="{source}">The notebook itself</a>; the report: {reports}.</p>
"""


def pages(makers: Makers, languages: tuple[str, ...], folder: Path) -> dict[str, bytes]:
    """{file's name: page} of every notebook whose last run is done. pandoc works in `folder`, prepared by report_build.

    Raises WrongUse if an executed notebook is gone.
    """
    done = {name: entry for name, entry in makers.entries.items() if entry.status == "done"}
    named = {each.name: each for each in makers.notebooks if each.name in done}
    return {f"{name}.html": _page(named[name], done[name], makers, languages, folder) for name in sorted(named)}


def _page(notebook: Notebook, entry: Entry, makers: Makers, languages: tuple[str, ...], folder: Path) -> bytes:
    path = executed_path(notebook, makers.place)
    if not path.is_file():
        raise WrongUse(f"{paths.shown(path)} is missing; run it again: bpo run --only {notebook.number}")
    target = makers.place.run / "report" / PAGES
    told = {
        "name": notebook.name,
        "profile": str(entry.parameters.get("profile", makers.place.run.name)),
        "run": entry.id[:8],
        "code": entry.code_hash[:8],
        "date": (entry.ended or entry.started)[:10],
        "source": Path(os.path.relpath(notebook.path, target)).as_posix(),
    }
    reports = ", ".join(f'<a href="../{language}.html">{language}</a>' for language in languages)
    records.write_text(folder / "head.html", HEAD)
    records.write_text(folder / "top.html", TOP.format(**{k: html.escape(v) for k, v in told.items()}, reports=reports))
    options = [*OPTIONS, "-H", "head.html", "-B", "top.html", "-M", f"pagetitle={notebook.name}"]
    return report_build.convert(json.dumps(_shown(path)), FORM, "html5", options, folder).encode("utf-8")


def _shown(path: Path) -> dict[str, Any]:
    """The executed notebook without what only programs read: pandoc would write it into the page."""
    node = json.loads(records.read_text(path))
    for cell in node["cells"]:
        cell["metadata"] = {}
    return node
