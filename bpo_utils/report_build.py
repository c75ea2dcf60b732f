"""Markdown to one self-contained HTML file and one PDF: pandoc, and Typst for the PDF. Offline, the same bytes again.

Fonts come from the package and from Typst itself, never from the machine. PDF/A-2b is asked for because Typst then
refuses a character that no font has; in a plain PDF it would draw a box without a word.
"""

import re
import shutil
from pathlib import Path

from bpo_utils import paths
from bpo_utils.notebook import WrongUse

WIDEST = ["--wrap=none", "--columns=100000"]  # no line is too long: tables keep the widths that their cells need
COMMON = ["--citeproc", "--number-sections", "--fail-if-warnings", "-M", "link-citations=true", *WIDEST]
# Tags (the PDF's structure for screen readers) are off: Typst 0.15.1 stops with an internal error where a figure floats
# into a table that goes over two pages. The HTML has that structure.
FORM = {"pdf_standards": "a-2b", "pdf_tags": False}
TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)


def prepare(folder: Path, report: Path) -> None:
    """Put everything that a build reads into its folder, since pandoc and Typst look for files there."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in ("style.css", "template.typ", "widths.lua"):
        shutil.copyfile(paths.REPORT / name, folder / name)
    for path in report.glob("*.bib"):
        shutil.copyfile(path, folder / path.name)


def html(markdown: str, folder: Path, words: dict[str, str]) -> str:
    """One HTML page with pictures and style inside. Raises WrongUse with pandoc's words if it warns or fails."""
    options = ["--standalone", "--embed-resources", "--mathml", "--css=style.css", "--toc", "--toc-depth=2"]
    options += ["-V", f"toc-title={words['contents']}", "-M", f"date={words['built']}"]
    made = convert(markdown, "markdown", "html5", [*COMMON, *options], folder)
    return TABLE.sub(lambda found: f'<div class="wide">{found[0]}</div>', made)


def pdf(markdown: str, folder: Path, words: dict[str, str], timestamp: int) -> bytes:
    """The PDF. Raises WrongUse with the message of pandoc or Typst, for a warning too."""
    import typst

    options = ["--standalone", "--template=template.typ", "--lua-filter=widths.lua"]
    for name in ("language", "contents", "built", "header-note", "short-title"):
        options += ["-V", f"{name}={words[name]}"]
    source = convert(markdown, "markdown", "typst", [*COMMON, *options], folder)
    (folder / "main.typ").write_text(source, encoding="utf-8")
    fonts = [str(paths.REPORT_FONTS)]
    compiler = typst.Compiler(str(folder / "main.typ"), root=str(folder), font_paths=fonts, ignore_system_fonts=True)
    try:
        made, warnings = compiler.compile_with_warnings(format="pdf", timestamp=timestamp, **FORM)
    except typst.TypstError as error:
        raise WrongUse(f"Typst: {error.diagnostic or error.message}") from error
    if warnings:
        raise WrongUse("Typst warns:\n" + "\n".join(each.diagnostic or each.message for each in warnings))
    return made


def convert(text: str, form: str, target: str, options: list[str], folder: Path) -> str:
    """What pandoc makes of a text. Raises WrongUse with its words if it warns or fails."""
    import pypandoc

    try:
        return pypandoc.convert_text(text, target, form, options, cworkdir=str(folder))
    except RuntimeError as error:
        raise WrongUse(f"pandoc, to {target}: {str(error).strip()}") from error
