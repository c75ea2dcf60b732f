"""All notebooks through the runner on the shrunken miniature, as make does, in their own processes; and the report."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from bpo_utils.records import LETTERS

SETS = {"bpo_test": 12, "dolly": 12, "vicuna": 6, "self_instruct": 12}


def bpo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    places = {"BPO_RUNS_DIR": str(folder / "runs"), "BPO_FIGURES_DIR": str(folder / "figures")}
    command = [sys.executable, "-m", "bpo_utils.cli", *words]
    return subprocess.run(command, env=os.environ | places, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The folder of one whole run, and what it printed."""
    folder = tmp_path_factory.mktemp("course")
    done = bpo(folder, "run", "--profile", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def results(folder: Path) -> dict:
    return json.loads((folder / "runs/smoke/06_results/results.json").read_text(encoding="utf-8"))


def test_one_line_per_notebook_then_the_table_then_the_paths(course):
    folder, printed = course
    names = [path.stem for path in sorted((folder / "runs/smoke/notebooks").glob("*.ipynb"))]
    assert [name[:2] for name in names] == ["00", "01", "02", "03", "04", "05", "06"]
    assert [line.split()[:2] for line in printed.splitlines()[:7]] == [[name, "done"] for name in names]
    for word in ("mini-weak", "mini-middle", "mini-strong", "rubric", "preference", "result.png", "results.json"):
        assert word in printed


def test_results_have_the_promised_form(course):
    found = results(course[0])
    models, judges = {"mini-weak", "mini-middle", "mini-strong"}, {"rubric", "preference"}
    assert {(row["answer_model"], row["judge"]) for row in found["rows"]} == {(m, j) for m in models for j in judges}
    for row in found["rows"] + found["controls"]:
        expected = sum(SETS.values()) if row["test_set"] == "pooled" else SETS[row["test_set"]]
        assert row["n"] == expected == sum(row["counts"].values()) and set(row["counts"]) == set(LETTERS)
        assert row["net_win"] == pytest.approx((row["counts"]["B"] - row["counts"]["A"]) / row["n"])
        assert -1 <= row["ci_low"] <= row["net_win"] <= row["ci_high"] <= 1
    assert {row["rewriter"] for row in found["controls"]} == {"identity", "drop_words", "reference"}
    assert {"topics_kept_unseen", "unsafe_made_safe", "unchanged", "growth_words_median"} <= found["rewriter"].keys()


def test_controls_come_out_as_they_must(course):
    for row in results(course[0])["controls"]:
        if row["rewriter"] == "identity":
            assert row["counts"]["C"] == row["n"]
        elif row["test_set"] == "pooled" and row["judge"] == "rubric":
            assert (row["net_win"] > 0) == (row["rewriter"] == "reference")


def test_figure_says_miniature_and_lies_beside_its_numbers(course):
    figures = course[0] / "figures"
    assert all((figures / f"result.{ending}").stat().st_size > 1000 for ending in ("png", "pdf", "svg", "json"))
    assert "miniature" in (figures / "result.json").read_text(encoding="utf-8")


def test_executed_notebooks_hold_no_errors_warnings_or_dead_widgets(course):
    for path in (course[0] / "runs/smoke/notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "error", (path.name, cell.id)
                assert output.get("name") != "stderr", (path.name, cell.id, output.text)
                assert "widget" not in str(output.get("data", {}).keys()), (path.name, cell.id)


def test_ledger_tells_one_finished_run_per_notebook(course):
    lines = (course[0] / "runs/smoke/ledger.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["status"] for entry in entries] == ["done"] * 7 and all(entry["ended"] for entry in entries)


def test_second_run_finds_everything_up_to_date(course):
    done = bpo(course[0], "run", "--profile", "smoke")
    assert done.returncode == 0 and done.stdout.count("up to date") == 7


def test_misspelt_parameter_starts_nothing(tmp_path):
    done = bpo(tmp_path, "run", "--profile", "smoke", "--only", "03", "-p", "learning_rat=0.1")
    assert (
        done.returncode == 2 and "learning_rate" in done.stderr and not (tmp_path / "runs/smoke/ledger.jsonl").exists()
    )


@pytest.fixture(scope="module")
def further(course, tmp_path_factory):
    """A copy of the run, reported, then with the further experiments and reported again: (folder, printed, reports)."""
    folder = tmp_path_factory.mktemp("further") / "course"
    shutil.copytree(course[0], folder)
    printed, reports = [], []
    for words in (("report",), ("run", "--all"), ("report",)):
        done = bpo(folder, *words, "--profile", "smoke")
        assert done.returncode == 0, (words, done.stdout + done.stderr)
        printed.append(done.stdout)
        reports.append({path.name: path.read_bytes() for path in (folder / "runs/smoke/report").glob("*.*")})
    return folder, printed[1], [reports[0], reports[2]]


def test_further_experiments_add_four_notebooks_and_repeat_none(further):
    states = dict(line.split()[:2] for line in further[1].splitlines()[:11])
    assert list(states) == [path.stem for path in sorted((further[0] / "runs/smoke/notebooks").glob("*.ipynb"))]
    assert [name[:2] for name, state in states.items() if state == "done"] == ["07", "08", "09", "10"]
    assert sum(line.count("up to date") for line in further[1].splitlines()[:11]) == 7


def test_further_results_have_intervals_around_their_means(further):
    run = further[0] / "runs/smoke"
    iterate = json.loads((run / "07_iterate/results.json").read_text(encoding="utf-8"))["rows"]
    align = json.loads((run / "08_align/results.json").read_text(encoding="utf-8"))["comparisons"]
    assert {row["experiment"] for row in iterate} == {"iterate", "feedback", "scaling", "sizes", "noise"}
    assert {row["experiment"] for row in align} == {"rlhf", "augment"}
    assert len({row["comparison"] for row in align if row["experiment"] == "rlhf"}) == 8
    for row in iterate + align:
        assert row["ci_low"] <= row["net_win"] <= row["ci_high"] and -1 <= row["net_win"] <= 1 and row["seeds"] == 1
        assert row["judge"] in ("rubric", "preference") and len(row["spread"]) == 1


def test_embodied_results_have_the_rows_that_are_promised(further):
    found = json.loads((further[0] / "runs/smoke/10_embodied/results.json").read_text(encoding="utf-8"))
    keys = {"condition", "remedy", "metric", "mean", "ci_low", "ci_high", "seeds", "episodes"}
    assert all(set(row) == keys and row["ci_low"] <= row["mean"] <= row["ci_high"] for row in found["rows"])
    assert len({(row["condition"], row["remedy"], row["metric"]) for row in found["rows"]}) == 8 * 11 * 3
    assert len(found["rows"]) == 8 * 11 * 3 and {row["episodes"] for row in found["rows"]} == {20}


def test_further_notebooks_hold_no_errors_or_warnings(further):
    paths = [*(further[0] / "runs/smoke/notebooks").glob("0[789]_*.ipynb")]
    paths += (further[0] / "runs/smoke/notebooks").glob("10_*.ipynb")
    assert len(paths) == 4
    for path in paths:
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "error" and output.get("name") != "stderr", (path.name, cell.id, output)


def test_the_report_names_what_was_not_run_and_takes_it_in_when_it_was(further):
    before, after = further[2]
    assert set(before) == set(after) == {"en.html", "en.pdf", "zh.html", "zh.pdf"}
    assert all(content.startswith(b"%PDF") for name, content in after.items() if name.endswith("pdf"))
    for name, absent in (("en.html", "were not run for this report"), ("zh.html", "没有为本报告运行")):
        assert before[name].decode().count(absent) == 4 and absent not in after[name].decode()
        assert "fig-rlhf" in after[name].decode() and "fig-rlhf" not in before[name].decode()


def test_every_link_of_the_report_leads_to_a_cell_of_an_executed_notebook(further):
    folder = further[0] / "runs/smoke/report"
    for name in ("en.html", "zh.html"):
        links = set(re.findall(r'href="(notebooks/[^"]*)"', further[2][1][name].decode()))
        assert {link.split("/")[1][:2] for link in links} >= {"03", "06", "07", "08", "09", "10"}
        for file, _, cell in (link.partition("#") for link in links):
            assert f'<div id="{cell}" class="cell code"' in (folder / file).read_text(encoding="utf-8")
