"""A made-up finished run with a small report, for the tests of `bpo report`."""

import dataclasses
import shutil
from pathlib import Path

from made_notebooks import short_profile, write_notebook

from bpo_utils import ledger, notebook, paths, records, report
from bpo_utils.records import Answer, Rewrite, Verdict

WRITES = ["06_results/results.json", "06_results/cards.json", "figures/result.svg"]
CELLS = (
    "results = {'rows': []}\nrecords.write_json(folder / 'results.json', results)",
    "results['panel'] = []\nrecords.write_json(folder / 'results.json', results)",
    "plots.result_figure(results, figures / 'result')",
    "records.write_json(folder / 'cards.json', [])",
)
HEADER = "---\ntitle: {title}\nsubtitle: small\nauthor: []\nlang: {lang}\nbibliography: references.bib\n---\n\n"
EN = """# Results {#sec-results}

It gains {{ mini.pooled.mini_strong.rubric.net_win | ci }} points, {{ mini.pooled.mini_strong.rubric.B }} better,
p {{ mini.pooled.mini_strong.rubric.p }}; the paper {{ paper.t3.gpt_3_5_turbo.dwr }} [@cheng2024bpo].
See {{ ref fig-result }}.
With $x^2$ and `{{ code }}`.

![The result.](figures/result){#fig-result}

{{ table mini.rows where test_set=pooled columns=answer_model,judge,n,B,net_win|ci }}

: Pooled. {#tbl-pooled}

<!-- if 07 -->
Seven: {{ mini.iterate.rubric.mean }}.
<!-- else -->
Seven was not run.
<!-- end -->

<!-- if mini.pooled.mini_strong.rubric.net_win > 0.2 and mini.pooled.mini_strong.rubric.n >= 100 -->
It is clear.
<!-- end -->

<!-- if mini.pooled.mini_strong.preference.net_win >= -0.05 -->
Never shown.
<!-- end -->

{{ example }}

# References {-}

::: {#refs}
:::
"""
ZH = (
    EN.replace("# Results", "# 结果")
    .replace("It gains", "增益为")
    .replace("The result", "结果图")
    .replace("Seven was not run", "第七个笔记本没有运行")
    .replace("It is clear", "结果清楚")
)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="40"><rect width="{width}" height="40"/></svg>'


def make(folder: Path) -> report.Sources:
    """The run, the notebooks and the report; call it where $BPO_RUNS_DIR and $BPO_FIGURES_DIR are set."""
    run, texts = paths.run_dir("mini"), folder / "report"
    write_notebook(folder / "notebooks" / "06_results.ipynb", *CELLS, writes=WRITES)
    write_notebook(folder / "notebooks" / "07_more.ipynb", "1", writes=["07_iterate/results.json"])
    row = {"test_set": "pooled", "answer_model": "mini-strong", "judge": "rubric", "n": 732}
    row |= {"counts": {"A": 108, "B": 401, "C": 223, "invalid": 0, "refused": 0}}
    row |= {"net_win": 0.4003, "ci_low": 0.348, "ci_high": 0.452}
    other = row | {"judge": "preference", "net_win": -0.1}
    records.write_json(
        run / "06_results/results.json", {"rows": [row, other], "panel": [row | {"p": 1e-9}, other | {"p": 0.2}]}
    )
    records.write_json(run / "06_results/cards.json", [])
    records.write_text(paths.figures_dir() / "result.svg", SVG.format(width=80))
    records.write_text(paths.figures_dir() / "result_zh.svg", SVG.format(width=60))
    add_example(run)
    shutil.copytree(paths.REPORT / "paper", texts / "paper")
    shutil.copy(paths.REPORT / "words.yaml", texts)
    entry = "@book{cheng2024bpo, title={BPO}, author={Cheng, J.}, year={2024}, url={https://example.org/x}}\n"
    records.write_text(texts / "references.bib", entry)
    write_texts(texts)
    sources = report.Sources(short_profile("06", further=["07"]), texts, folder / "notebooks")
    finish(sources, "06_results")
    return sources


def write_texts(texts: Path, en: str = EN, zh: str = ZH) -> None:
    """Write both languages."""
    records.write_text(texts / "en.md", HEADER.format(title="A small report", lang="en") + en)
    records.write_text(texts / "zh.md", HEADER.format(title="一份小报告", lang="zh-Hans") + zh)


def finish(sources: report.Sources, name: str) -> None:
    """Write the ledger line of a done notebook."""
    place = sources.makers.place
    each = next(each for each in notebook.find(sources.notebooks) if each.name == name)
    values = each.values({"profile": "mini"})
    entry = ledger.begin(place.run, notebook=name, parameters=values, source_hash=each.source_hash, inputs={})
    outputs = {entry: ledger.digest(place.find(entry)) for entry in each.writes}
    ended = "2026-01-02T03:04:05+00:00"
    ledger.end(place.run, dataclasses.replace(entry, status="done", ended=ended, seconds=90.0, outputs=outputs))
    executed = place.run / "notebooks" / each.path.name
    executed.parent.mkdir(exist_ok=True)
    shutil.copy(each.path, executed)


def add_example(run: Path) -> None:
    """Two prompts with answers and verdicts; one was returned as it was."""
    rewrites, answers, verdicts = [], [], []
    for name, optimized in (("q1", "Explain *tides* and name [one] cause."), ("q2", "tides")):
        rewrites.append(Rewrite(name, "dolly", "bpo", "tides", optimized))
        for side, said in (("original", "The sea moves."), ("bpo", "The moon pulls.\n\nThe sea moves.")):
            answers.append(Answer(name, "dolly", side, "mini-strong", "tides", said))
        told = ("B", "B", "B", "Response B is better. [[B]]", "Response A is better. [[A]]")
        verdicts += [Verdict(name, "dolly", "bpo", "mini-strong", judge, *told) for judge in ("rubric", "preference")]
    records.write_rows(run / "04_inference/rewrites.jsonl", rewrites)
    records.write_rows(run / "05_judging/answers.jsonl", answers)
    records.write_rows(run / "05_judging/verdicts.jsonl", verdicts)
