"""A made-up finished run with a small report, for the tests of `bpo report`."""

import dataclasses
import shutil
from pathlib import Path

from made_notebooks import short_profile, write_notebook

from bpo_utils import ledger, notebook, paths, profile, records, report, reproduced
from bpo_utils.embodied import chapter, measure, study, wordings
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


def embodied_results(remedied: float, floor: float) -> dict:
    """Made-up results of notebook 10: the success with remedies on known words, the accuracy of the blind policy."""
    results = {"profile": "mini", "label": "miniature", "seeds": [1, 2], "test": 150, "pairs": 200, "steps": 1000}
    rows, gains, curve = [], [], []
    for condition in wordings.CONDITIONS:
        told = {"canonical": 0.9, "frames_known": 0.7, "frames_unseen": 0.7}.get(condition, 0.25)
        for remedy in (*study.REMEDIES, *study.CONTROLS):
            success = told if remedy == "none" or condition.endswith("unseen") else remedied
            means = {"action_accuracy": 0.5 + success / 2, "exact_sequence": success - 0.1, "success": success}
            if remedy == "blind":
                means = {"action_accuracy": floor, "exact_sequence": 0.1, "success": 0.2}
            names = {"condition": condition, "remedy": remedy}
            rows += [names | {"metric": metric} | _around(means[metric]) for metric in measure.METRICS]
            closed = None if condition == "canonical" else (means["success"] - told) / (0.9 - told)
            gain = _around(means["success"] - told) | {"closed": closed}
            gains += [names | {"metric": "success"} | gain] if remedy != "none" else []
        for pairs in (0, 100, 400):
            names = {"condition": condition, "pairs": pairs}
            curve += [names | {"metric": metric} | _around(0.2 + pairs / 1000) for metric in measure.METRICS]
    results |= {"rows": rows, "gains": gains, "curve": curve}
    results["paraphrases"] = [{"seed": seed, "said": 400, "right": 300} for seed in (1, 2)]
    results["trainings"] = [{"kind": "fixed", "seed": 1, "seconds": 30.5}]
    told = {"condition": "canonical", "text": "go to the red box"}
    results["strip"] = {"seed": 7, "policy": "fixed", "rows": [told | {"actions": [1, 2], "success": True}]}
    results["saliency"] = [told | {"remedy": "none", "words": [["go", 0.1], ["red", 0.2]]}]
    return results | {"named": chapter.named(results)}


def _around(mean: float) -> dict:
    return {"mean": mean, "ci_low": mean - 0.05, "ci_high": mean + 0.05, "seeds": 2, "episodes": 150}


def add_embodied(sources: report.Sources, results: dict) -> report.Sources:
    """Finish the course's own notebook 10 with these results; the texts become what the course's report says of it."""
    run = paths.run_dir("mini")
    shutil.copy(paths.NOTEBOOKS / "10_embodied.ipynb", sources.notebooks)
    records.write_json(run / "10_embodied/results.json", results)
    cards = reproduced.as_rows(chapter.cards(results, profile.load("mini")))
    records.write_json(run / "10_embodied/cards.json", cards)
    (ten,) = (each for each in notebook.find(sources.notebooks) if each.number == "10")
    for file in ten.writes:
        if file.startswith("figures/"):
            drawn = SVG.format(width=70 if "_zh" in file else 90) if file.endswith(".svg") else "not looked at"
            records.write_text(paths.figures_dir() / file.removeprefix("figures/"), drawn)
    texts = {language: embodied_text(language) for language in ("en", "zh")}
    write_texts(sources.report, **texts)
    shutil.copy(paths.REPORT / "references.bib", sources.report)
    finish(sources, "10_embodied")
    return report.Sources(sources.profile, sources.report, sources.notebooks)


def embodied_text(language: str) -> str:
    """What the course's report says in its section on notebook 10, with the table of cards that it refers to."""
    sections = records.read_text(paths.REPORT / f"{language}.md").split("\n#")
    wanted = [each for each in sections for name in ("sec-cards", "sec-embodied") if f"{{#{name}}}" in each]
    references = EN.partition("# References")[2]
    assert len(wanted) == 2
    return "\n".join(f"#{each}" for each in wanted) + f"\n# References{references}"
