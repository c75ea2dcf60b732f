"""Each rule of the notebook checks meets a notebook that breaks it, and only it."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bpo_utils import checks, code_rules, paths

STRIP = (
    "metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.widgets metadata.language_info.version"
)


def code(name, source, **more):
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": name,
        "metadata": {},
        "outputs": [],
        "source": source.splitlines(keepends=True),
    } | more


def text(name, source):
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source.splitlines(keepends=True)}


def notebook():
    """A notebook that keeps every rule."""
    goals = "**Goals**\n\n- read the pairs\n- count them\n  by source"
    opening = f"# Pairs\n\n{goals}\n\n**Reads** nothing. **Writes** `02_pairs/a.jsonl`."
    return {
        "cells": [
            text("title", opening),
            code(
                "parameters",
                'profile: str = "mini"  # which run\nrows: int = 3  # of them',
                metadata={"tags": ["parameters"]},
            ),
            text("pairs", "## The pairs\n\n| machine | time |\n|---|---|\n| laptop | 2 s |"),
            code("count", "total = rows / 2\ntotal", metadata={"tags": ["slow"]}),
            text("end", "## You have\n\n- read the pairs\n- counted them by source\n"),
        ],
        "metadata": {"bpo": {"reads": [], "writes": ["02_pairs/a.jsonl"]}, "kernelspec": checks.KERNEL},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def problems(folder: Path, *nodes, form=checks.json_text):
    for number, node in enumerate(nodes):
        (folder / f"{number:02}_made.ipynb").write_text(form(node), encoding="utf-8")
    return [str(problem) for problem in checks.check(folder)]


def the_one(found, *parts):
    assert len(found) == 1, found
    for part in parts:
        assert part in found[0]


def test_a_good_notebook_has_no_problem(tmp_path):
    assert problems(tmp_path, notebook()) == []


def test_the_course_keeps_the_rules():
    assert [str(problem) for problem in checks.check(paths.NOTEBOOKS)] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda n: n["cells"][3].update(outputs=[{"output_type": "stream", "name": "stdout", "text": ["1"]}]),
            "its output",
        ),
        (lambda n: n["cells"][3].update(execution_count=4), "execution count"),
        (lambda n: n["cells"][3]["metadata"].update(execution={"iopub.status.busy": "x"}), "cell metadata: execution"),
        (lambda n: n["cells"][3]["metadata"].update(papermill={"status": "completed"}), "cell metadata: papermill"),
        (lambda n: n["metadata"].update(papermill={"duration": 1}), "needless metadata: papermill"),
        (lambda n: n["metadata"].update(widgets={}), "needless metadata: widgets"),
        (lambda n: n["metadata"].update(kernelspec={"name": "bpo", "display_name": "bpo"}), "kernelspec is"),
        (lambda n: n["metadata"].pop("kernelspec"), "kernelspec is None"),
        (lambda n: n["metadata"].update(language_info={"name": "python", "version": "3.11.7"}), "language_info"),
    ],
)
def test_traces_of_a_run_or_an_editor(tmp_path, change, said):
    node = notebook()
    change(node)
    the_one(problems(tmp_path, node), said, "--fix", "00_made.ipynb")
    assert checks.fix(tmp_path) == ["00_made.ipynb"]
    assert [str(problem) for problem in checks.check(tmp_path)] == []


def test_another_form_of_json_is_found_and_mended(tmp_path):
    the_one(problems(tmp_path, notebook(), form=json.dumps), "usual form")
    assert checks.fix(tmp_path) == ["00_made.ipynb"]
    assert checks.fix(tmp_path) == []
    assert checks.check(tmp_path) == []


def test_what_fix_writes_satisfies_nbstripout_and_nbformat(tmp_path):
    import nbformat

    dirty = notebook()
    dirty["cells"][3].update(outputs=[{"output_type": "stream", "name": "stdout", "text": ["1"]}], execution_count=2)
    problems(tmp_path, dirty)
    path = tmp_path / "00_made.ipynb"
    command = [sys.executable, "-m", "nbstripout", "--verify", "--keep-id", "--extra-keys", STRIP, str(path)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 1
    checks.fix(tmp_path)
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    node = nbformat.read(path, as_version=4)
    nbformat.validate(node)
    assert nbformat.writes(node) + "\n" == path.read_text(encoding="utf-8")


def test_lint_and_these_tests_strip_the_same_keys():
    makefile = (paths.ROOT / "Makefile").read_text(encoding="utf-8")
    assert STRIP.split() == makefile.split('--extra-keys "')[1].split('"')[0].replace("\\", "").split()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "no id"),
        ("3b3c4f1e", "words"),
        ("a3b3c4f1", "words"),
        ("abc1def0-1234-5678-9abc-def012345678", "words"),
        ("7", "words"),
        ("Load", "words"),
        ("end", "two cells"),
    ],
)
def test_cell_ids(tmp_path, name, said):
    node = notebook()
    node["cells"][3]["id"] = name
    the_one(problems(tmp_path, node), said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('profile: str = "mini"', "lacks type or comment"),
        ('profile: str = "mini"  # which\nrows = 3  # of them', "lacks type or comment"),
        ('profile: str = "mini"  # which\nname: str = "a#b"', "lacks type or comment"),
        ('profile: str = "mini"  # which\nrows: int = 3 * 2  # of them', "not a plain literal"),
        ('profile: str = "mini"  # which\nrows: int = "3"  # of them', "declared int"),
        ('profile: str = "mini"  # which\n\nrows: int = 3  # of them', "lacks type or comment"),
        ('profile: str = "mini"  # which\na, b = 1, 2  # both', "one parameter per line"),
        ('rows: int = 3  # of them\nprofile: str = "mini"  # which', "first line is not the profile"),
        ('profile: str = "paper"  # which', "first line is not the profile"),
        ("profile: str = 'mini  # which", "unterminated"),
    ],
)
def test_parameters(tmp_path, source, said):
    node = notebook()
    node["cells"][1]["source"] = source.splitlines(keepends=True)
    node["cells"][3]["source"] = ["1"]
    found = [line for line in problems(tmp_path, node) if "not plain Python" not in line]
    the_one(found, said, "cell 'parameters' (Pairs)")


def test_parameters_cell_missing_late_or_twice(tmp_path):
    missing, late, twice = notebook(), notebook(), notebook()
    missing["cells"][1]["metadata"] = {}
    late["cells"].insert(1, code("early", "1"))
    twice["cells"].insert(4, copy.deepcopy(twice["cells"][1]) | {"id": "again"})
    for node, said in ((missing, "0 cells"), (late, "1 cells"), (twice, "2 cells")):
        the_one(problems(tmp_path, node), said, "tag the first code cell")


def test_cell_sizes(tmp_path):
    long, heavy = notebook(), notebook()
    long["cells"].insert(4, code("long", "\n".join(["x = 1"] * 26)))
    the_one(problems(tmp_path, long), "26 lines", "cell 'long' (The pairs)")
    heavy["cells"][4:4] = [code(f"heavy-{word}", "\n".join(["x = 1"] * 9)) for word in ("a", "b", "c")]
    the_one(problems(tmp_path, heavy), "half of the code cells")


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 8
LONG_CLASS = "class C:\n" + "    x = 1\n" * 8


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import openai", "imports openai"),
        ("from zhipuai import ZhipuAI", "imports zhipuai"),
        ("def f():\n    import deepspeed.ops as d", "imports deepspeed.ops"),
        ("import httpx, os", "imports httpx"),
        ("import requests", "imports requests"),
        ('__import__("openai")', "calls __import__"),
        ("!ls", "not plain Python"),
        ("%pip install x", "not plain Python"),
        ("x = !ls", "not plain Python"),
        ("f(", "not plain Python"),
        ('get_ipython().system("ls")', "get_ipython"),
        (LONG_FUNCTION, "f has 9 lines"),
        (LONG_CLASS, "C has 9 lines"),
        ("open(name)", "calls open()"),
        ("folder.read_text()", "without encoding"),
        ("sys.exit(0)", "calls sys.exit()"),
        ('load("/data/rows")', "'/data/rows' is a path"),
        ('load("../shared")', "is a path"),
        ('load("~/rows")', "is a path"),
        (r'load("C:\\rows")', "is a path"),
        ('load("runs/mini")', "is a path"),
        ('load("figures/")', "is a path"),
        ('load(f"runs/{profile}/x")', "'runs/X/x' is a path"),
        ('load("pairs.jsonl")', "is a path"),
        ('load("02_pairs/other.jsonl")', "is a path"),
        ('"runs" / name / "02_pairs/x.jsonl"', "is a path"),
        ('folder / "../x"', "is a path"),
        ('Path("figures")', "depends on where"),
        ('os.path.join("a", "b")', "depends on where"),
        ("Path.cwd()", "depends on where"),
    ],
)
def test_code(tmp_path, source, said):
    node = notebook()
    node["cells"][3]["source"] = source.splitlines(keepends=True)
    the_one(problems(tmp_path, node), said, "cell 'count' (The pairs)")


@pytest.mark.parametrize(
    "source",
    [
        "import json\nfrom bpo_utils import pairs",
        'await show("x")',
        'paths.run_dir(profile) / "02_pairs" / "x.jsonl"',
        'folder / f"{name}.jsonl"',
        'paths.figures_dir() / "result.png"',
        'load("02_pairs/a.jsonl")',
        'print("A / C / B", "and/or", "text/html", "see runs/mini and results.json")',
        'print(f"{a}/{b}")',
        "Path(name)",
        'folder.read_text(encoding="utf-8")',
        LONG_FUNCTION.removesuffix("    x = 1\n"),
        '"""A value, runs/mini, that is only shown."""',
        "x = 5 % 3",
    ],
)
def test_code_that_is_allowed(source):
    assert list(code_rules.faults(source, {"02_pairs/a.jsonl"})) == []


def test_tag_that_papermill_does_not_honour(tmp_path):
    node = notebook()
    node["cells"][3]["metadata"]["tags"].append("raises-exception")
    the_one(problems(tmp_path, node), "raises-exception", "try/except")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# Pairs", "Pairs", "does not begin with a title"),
        ("**Goals**", "**Contents**", "no goals"),
        ("- read the pairs\n- count them", "read the pairs, count them", "no goals"),
        ("- count them", "- draw figures", "come back"),
        ("- count them", "- count them\n- weigh them", "come back"),
        ("**Reads** nothing. ", "", "no Reads / Writes line"),
        ("**Reads** nothing", "**Reads** `01_data/x.jsonl`", "Reads names ['01_data/x.jsonl']"),
        ("`02_pairs/a.jsonl`", "nothing", "Writes names nothing"),
        ("`02_pairs/a.jsonl`", "`02_pairs/a.jsonl`, `figures/`", "Writes names"),
    ],
)
def test_frame(tmp_path, old, new, said):
    node = notebook()
    opening = "".join(node["cells"][0]["source"])
    assert old in opening
    node["cells"][0]["source"] = opening.replace(old, new).splitlines(keepends=True)
    the_one(problems(tmp_path, node), said)


def test_a_notebook_that_closes_without_its_points(tmp_path):
    node = notebook()
    node["cells"][4]["source"] = ["That is all."]
    the_one(problems(tmp_path, node), "does not come back to the 2 goals")


def test_a_folder_may_stand_for_the_files_declared_in_it(tmp_path):
    node = notebook()
    node["metadata"]["bpo"]["writes"] = ["02_pairs/a.jsonl", "figures/a.png", "figures/b.png"]
    opening = "".join(node["cells"][0]["source"]).replace("a.jsonl`", "a.jsonl`, `figures/`")
    node["cells"][0]["source"] = opening.splitlines(keepends=True)
    assert problems(tmp_path, node) == []


def test_slow_cell_without_its_table(tmp_path):
    node = notebook()
    node["cells"][2]["source"] = ["## The pairs\n", "\n", "This takes a while."]
    the_one(problems(tmp_path, node), "tagged slow", "| machine | time |")


def second(reads, writes):
    node = notebook()
    names = ["`" + "`, `".join(entries) + "`" if entries else "nothing" for entries in (reads, writes)]
    opening = "".join(node["cells"][0]["source"]).split("**Reads**")[0]
    node["cells"][0]["source"] = f"{opening}**Reads** {names[0]}. **Writes** {names[1]}.".splitlines(keepends=True)
    node["metadata"]["bpo"] = {"reads": reads, "writes": writes}
    return node


def test_what_is_read_was_written_before(tmp_path):
    good = second(["02_pairs/a.jsonl"], ["03_training/model/"])
    assert problems(tmp_path, notebook(), good) == []
    the_one(problems(tmp_path, good, notebook()), "00_made.ipynb", "reads 02_pairs/a.jsonl, which no earlier")


def test_one_writer_for_each_file(tmp_path):
    the_one(problems(tmp_path, notebook(), notebook()), "01_made.ipynb", "so does 00_made.ipynb")


def test_what_is_no_notebook_is_said(tmp_path, capsys):
    assert checks.main([str(tmp_path)]) == 1
    assert "no notebooks in" in capsys.readouterr().err
    (tmp_path / "00_x.ipynb").write_text('{"cells": [\n', encoding="utf-8")
    assert checks.main([str(tmp_path)]) == 1
    assert "00_x.ipynb, line 2: not JSON" in capsys.readouterr().err
    (tmp_path / "00_x.ipynb").write_text('{"nbformat": 3}', encoding="utf-8")
    assert checks.main([str(tmp_path)]) == 1
    assert "not a notebook of format 4" in capsys.readouterr().err


def test_command_prints_problems_and_counts_them(tmp_path, capsys):
    node = notebook()
    node["cells"][3]["source"] = ["import openai"]
    problems(tmp_path, node)
    assert checks.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("00_made.ipynb, cell 'count' (The pairs): imports openai; ")
    assert printed[1] == "notebook checks: 1 problem"
    problems(tmp_path, notebook() | {"metadata": notebook()["metadata"] | {"widgets": {}}})
    assert checks.main(["--fix", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "cleaned 00_made.ipynb\nnotebook checks: 0 problems\n"
