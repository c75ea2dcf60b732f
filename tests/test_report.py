"""Building the report: the same bytes again, nothing from outside, and every mistake told with its line."""

import base64
import re
from html import unescape

import pytest
import report_run
from fontTools.ttLib import TTFont
from report_run import EN, ZH, write_texts

from bpo_utils import cli, filters, paths, profile, records, report, report_check, report_tables
from bpo_utils.notebook import WrongUse


@pytest.fixture
def sources(run_folder, tmp_path):
    return report_run.make(tmp_path)


def line_of(start):
    """The line of en.md that begins so."""
    found = [at for at, line in enumerate(EN.splitlines(), 1) if line.startswith(start)]
    return report_run.HEADER.count("\n") + found[0]


def markdown_cell(text):
    return {"cell_type": "markdown", "id": "text", "metadata": {}, "source": text}


def fails(sources, *said, languages=("en",)):
    """The build fails with all of these, and writes nothing."""
    with pytest.raises(WrongUse) as caught:
        report.build(report.Sources(sources.profile, sources.report, sources.notebooks), languages)
    assert all(part in str(caught.value) for part in said), caught.value
    assert not (paths.run_dir("mini") / "report").exists()


def test_both_languages_twice_give_the_same_bytes_with_nothing_from_outside(sources):
    written = report.build(sources)
    assert [path.name for path in written] == ["en.html", "en.pdf", "zh.html", "zh.pdf"]
    before = {path.name: path.read_bytes() for path in written}
    again = report.build(report.Sources(sources.profile, sources.report, sources.notebooks))
    assert {path.name: path.read_bytes() for path in again} == before
    assert before["zh.pdf"].startswith(b"%PDF")
    for name in ("en.html", "zh.html"):
        page = before[name].decode()
        loaded = re.findall(r"(?:src|data)=\"([^\"]*)\"|<link[^>]*href=\"([^\"]*)\"|url\(([^)]*)\)", page)
        assert all(place.startswith("data:") for places in loaded for place in places if place), loaded
        assert "<math" in page and 'name="viewport"' in page
    en, zh = before["en.html"].decode(), before["zh.html"].decode()
    assert 'lang="zh-Hans"' in zh and "结果清楚" in zh and "It is clear" in en
    for page in (en, zh):
        assert (
            "+40.0\u00a0[+34.8,\u00a0+45.2]" in page
            and "54.8\u00a0%" in page
            and "&lt;\u00a00.001" in page
            and "+22.0" in page
        )
    widths = {"en": (80, 60), "zh": (60, 80)}  # of the English picture, and of the Chinese one
    for page, (own, other) in ((en, widths["en"]), (zh, widths["zh"])):
        drawn = [base64.b64encode(report_run.SVG.format(width=each).encode()).decode() for each in (own, other)]
        assert drawn[0] in page and drawn[1] not in page
    assert "Never shown" not in en and "Seven was not run" in en and "{{ code }}" in en


def test_every_number_leads_to_its_row_and_the_row_to_the_cell(sources):
    report.build(sources, ("en",))
    page = (paths.run_dir("mini") / "report/en.html").read_text(encoding="utf-8")
    linked = set(re.findall(r'href="#(n-[^"]*)"', page))
    assert linked and linked <= set(re.findall(r'id="(n-[^"]*)"', page))
    rows = {
        cell: row
        for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL)
        for cell in re.findall(r"<code>(.*?)</code>", row)
    }
    entry = sources.makers.entries["06_results"]
    for name, cell in (("net_win", "cell-2"), ("p", "cell-3")):
        row = rows[f"mini.pooled.mini_strong.rubric.{name}"]
        assert f'href="notebooks/06_results.html#{cell}"' in row
        assert entry.id[:8] in row and entry.code_hash[:8] in row and "06_results/results.json" in row
    assert "paper, Table 3: gpt-3.5-turbo" in rows["paper.t3.gpt_3_5_turbo.dwr"]
    figure = re.search(r"<figcaption[^>]*>(.*?)</figcaption>", page, re.DOTALL)[1]
    assert "Figure 1." in figure and "notebooks/06_results.html#cell-4" in figure and entry.id[:8] in figure
    assert "Table 1." in page and '<a href="#fig-result">Figure 1</a>' in page


def test_executed_notebooks_are_pages_that_need_nothing(sources):
    path = paths.run_dir("mini") / "notebooks" / "06_results.ipynb"
    node = records.read_json(path)
    node["cells"][0:0] = [markdown_cell("# cell 4"), markdown_cell("# cell-4\n\nThe loss is $\\sum_i x_i$.")]
    cell = next(each for each in node["cells"] if each.get("id") == "cell-4")
    cell["metadata"] = {"papermill": {"start_time": "2026-01-01"}}
    cell["outputs"] = [
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {"text/html": "<table><tr><td>n = 7</td></tr></table>"},
        },
        {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<script>document.title = 'x'</script>"}},
        {"output_type": "stream", "name": "stdout", "text": ["2 < 3 & so on\n"]},
    ]
    records.write_json(path, node)
    stray = paths.run_dir("mini") / "report" / "notebooks" / "05_gone.html"
    records.write_text(stray, "of an older run")
    report.build(sources, ("en",))
    assert not stray.exists()
    page = (stray.parent / "06_results.html").read_text(encoding="utf-8")
    assert page.count('id="cell-4"') == 1 and '<div id="cell-4" class="cell code"' in page  # not that of the headings
    assert "<math" in page and "n = 7" in page and "2 &lt; 3 &amp; so on" in page and "papermill" not in page
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in unescape(page)
    assert not re.findall(r"<link[^>]*href|(?:src|url)[=(](?!\"data:)", page)
    entry = sources.makers.entries["06_results"]
    assert entry.id[:8] in page and entry.code_hash[:8] in page and 'href="../en.html"' in page
    assert 'href="../zh.html"' not in page  # it was not built
    source = re.search(r'href="([^"]*\.ipynb)"', page)[1]
    assert (stray.parent / source).resolve() == (sources.notebooks / "06_results.ipynb").resolve()
    path.unlink()
    with pytest.raises(WrongUse, match=r"06_results\.ipynb is missing; run it again: bpo run --only 06"):
        report.build(sources, ("en",))


def test_example_is_chosen_by_hash_and_does_not_show_an_unchanged_prompt(sources):
    report.build(sources, ("en",))
    page = (paths.run_dir("mini") / "report/en.html").read_text(encoding="utf-8")
    assert "of the 1 prompts" in page and "Explain *tides* and name [one] cause." in page
    assert "Response B is better. [[B]]" in page


def test_unknown_names_are_told_at_once_with_line_and_neighbours(sources):
    text = EN.replace("rubric.B }}", "rubric.Bee }}").replace("gpt_3_5_turbo", "gpt_3_5_trubo")
    write_texts(sources.report, text)
    line = line_of("It gains")
    names = (f"line {line}: no number 'mini.pooled.mini_strong.rubric.Bee'", "mini.pooled.mini_strong.rubric.B")
    fails(sources, *names, f"line {line + 1}: no number 'paper.t3.gpt_3_5_trubo.dwr'", "paper.t3.gpt_3_5_turbo.dwr")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("(figures/result)", "(figures/resutl)", "figure figures/resutl is missing"),
        ("ref fig-result", "ref fig-other", "no figure or table 'fig-other'"),
        ("net_win | ci", "net_win | cy", "no filter 'cy'"),
        ("rubric.B }}", "rubric.B | ci }}", "no interval beside it"),
        ("columns=answer_model", "columns=answer_modle", "has no header in words.yaml"),
        ("table mini.rows", "table mini.row", "no list 'mini.row'"),
        ("test_set=pooled", "test_set=poled", "no row with test_set=poled"),
        ("<!-- end -->\n\n{{ ex", "{{ ex", "has no end"),
        ("if 07", "if never", "is no condition"),
        ("rubric.net_win > 0.2", "rubric.net_wim > 0.2", "no number 'mini.pooled.mini_strong.rubric.net_wim'"),
        ("[@cheng2024bpo]", "[@nobody]", "citation nobody not found"),
        ("It is clear", "It is \U0001f9ff", "could not be displayed"),
        ("{{ example }}", "{{ example judge=x }}", "no option judge"),
    ],
)
def test_mistakes_stop_the_build(sources, old, new, said):
    assert old in EN
    write_texts(sources.report, EN.replace(old, new))
    fails(sources, said)


def test_typst_warning_stops_the_build(sources, monkeypatch, tmp_path):
    for name in ("style.css", "template.typ", "widths.lua"):
        text = (paths.REPORT / name).read_text(encoding="utf-8").replace("Noto Sans SC Subset", "No Such Family")
        records.write_text(tmp_path / "forms" / name, text)
    monkeypatch.setattr(paths, "REPORT", tmp_path / "forms")
    fails(sources, "Typst warns", "no such family")


def test_further_experiment_is_included_once_it_is_done(sources):
    results = {"rows": [{"judge": "rubric", "round": 1, "mean": 0.25}], "rubric": {"mean": 0.25}}
    records.write_json(paths.run_dir("mini") / "07_iterate/results.json", results)
    report_run.write_notebook(
        sources.notebooks / "07_more.ipynb",
        "records.write_json(folder / 'results.json', 1)",
        writes=["07_iterate/results.json"],
    )
    report_run.finish(sources, "07_more")
    report.build(report.Sources(sources.profile, sources.report, sources.notebooks), ("en",))
    page = (paths.run_dir("mini") / "report/en.html").read_text(encoding="utf-8")
    assert "Seven: " in page and ">+25.0</a>" in page and "Seven was not run" not in page


def test_text_may_ask_whether_a_number_is_known(sources):
    condition = "mini.pooled.mini_strong.rubric.net_win > 0.2 and mini.pooled.mini_strong.rubric.n >= 100"
    for name, there in (("mini.pooled.mini_strong.rubric.net_win", True), ("mini.pooled.nobody", False)):
        write_texts(sources.report, EN.replace(condition, f"known {name}"))
        html = report.build(sources, ("en",))[0].read_text(encoding="utf-8")
        assert ("It is clear" in html) == there


def test_unfinished_run_and_profile_that_is_no_miniature(sources):
    unfinished = sources.profile.model_copy(update={"notebooks": ["06", "07"]})
    with pytest.raises(WrongUse, match=r"not done: 07 \(never run\); run bpo run"):
        report.build(report.Sources(unfinished, sources.report, sources.notebooks))
    with pytest.raises(WrongUse, match="no miniature"):
        report.build(report.Sources(profile.load("paper")))


def test_check_says_what_is_stale_and_what_nobody_declares(sources):
    rows = report_check.states(sources.profile, sources.notebooks)
    assert [row[:2] for row in rows] == [
        ["06_results/results.json", "up to date"],
        ["06_results/cards.json", "up to date"],
        ["figures/result", "up to date"],
        ["07_iterate/results.json", report_check.NOT_RUN],
    ]
    assert rows[2][2] == "06_results, cell cell-4"
    assert report_check.undeclared(sources.profile, sources.report, sources.notebooks) == []
    records.write_text(paths.figures_dir() / "result.svg", "<svg/>")
    records.write_text(paths.figures_dir() / "by_hand.png", "x")
    rows = report_check.states(sources.profile, sources.notebooks)
    assert rows[2][1] == "stale: figures/result.svg changed"
    assert report_check.undeclared(sources.profile, sources.report, sources.notebooks) == ["figures/by_hand"]
    (paths.figures_dir() / "result.svg").unlink()
    assert report_check.states(sources.profile, sources.notebooks)[2][1].startswith("missing")


def test_check_says_when_a_report_is_older_than_what_it_was_built_from(sources):
    def states(**changed):
        fresh = report.Sources(sources.profile, changed.get("report", sources.report), sources.notebooks)
        return {row[0]: row[1] for row in report_check.built(fresh)}

    assert set(states().values()) == {"not built"}
    assert report_check.built(report.Sources(profile.load("recorded"))) == []
    report.build(sources, ("en",))
    assert states() == {
        "report/en.html": "up to date",
        "report/en.pdf": "up to date",
        "report/zh.html": "not built",
        "report/zh.pdf": "not built",
    }
    report.build(sources, ("zh",))
    assert set(states().values()) == {"up to date"}
    (paths.run_dir("mini") / "report" / "zh.pdf").unlink()
    assert states()["report/zh.pdf"] == "not built" and states()["report/zh.html"] == "up to date"
    with (sources.report / "en.md").open("a", encoding="utf-8") as text:
        text.write("\nMore.\n")
    assert states()["report/en.pdf"] == "stale: its texts changed"
    report_run.finish(sources, "06_results")  # another run
    assert states()["report/en.html"] == "stale: 06_results ran since; its texts changed"
    report.build(report.Sources(sources.profile, sources.report, sources.notebooks))
    assert set(states().values()) == {"up to date"}


def test_limits_of_the_filters_are_said_in_both_languages():
    known = report_tables.read_words()["values"]
    told = filters.limits(profile.load("mini").filters)
    for name, limit in told.items():
        if name != filters.LEAKED:  # the markers themselves
            assert report_tables.said(limit, known, "en") == limit
            assert not re.search("[a-z]", report_tables.said(limit, known, "zh")), limit
    assert report_tables.said("over 6.5 times the words, without context", known, "zh") == "不计上下文，词数超过 6.5 倍"
    assert report_tables.said("nobody knows 3 of these", known, "zh") == "nobody knows 3 of these"


def test_command_lists_numbers_and_exits_1_for_what_is_stale(run_folder, capsys):
    assert cli.main(["report", "--numbers", r"paper\.t6\.llama_13b\.BPO_1k\.dwr"]) == 0
    assert "paper.t6.llama_13b.BPO_1k.dwr  +36.5  points" in capsys.readouterr().out
    assert cli.main(["report", "--check"]) == 1  # nothing has run here
    assert "never run" in capsys.readouterr().out
    assert cli.main(["report"]) == 2
    assert "run bpo run --profile mini first" in capsys.readouterr().err
    assert cli.main(["report", "--profile", "paper"]) == 0 and "no report" in capsys.readouterr().out


def test_font_has_every_character_of_texts_and_facts():
    files = [*paths.REPORT.rglob("*.md"), *paths.REPORT.rglob("*.yaml"), *paths.FACTS.glob("*.yaml")]
    files += [paths.PACKAGE / "labels.yaml", paths.ROOT / "README.zh.md"]
    fonts = sorted(paths.REPORT_FONTS.glob("*.ttf"))
    assert [TTFont(path)["name"].getDebugName(2) for path in fonts] == ["Bold", "Regular"]
    assert sum(path.stat().st_size for path in fonts) <= 4_000_000
    for path in fonts:
        known = TTFont(path).getBestCmap().keys() | {ord("\n"), 0x200B}
        missing = {
            character: file.name
            for file in files
            for character in file.read_text(encoding="utf-8")
            if ord(character) not in known
        }
        assert not missing, f"add to fonts/report/characters.txt and make the fonts again: {missing}"


def test_the_report_of_this_course_has_no_problems():
    assert report_check.problems() == []


def test_parity_of_the_small_report(tmp_path):
    write_texts(tmp_path)
    assert report_check.problems(tmp_path) == []
    write_texts(tmp_path, zh=ZH.replace(".rubric.B ", ".rubric.A ").replace("[@cheng2024bpo]", ""))
    told = "\n".join(report_check.problems(tmp_path))
    assert "the placeholders differ; only in" in told and "rubric.B" in told and "citations differ" in told
    write_texts(tmp_path, zh=ZH + "\n## 更多\n")
    assert "headings" in report_check.problems(tmp_path)[0]
    write_texts(tmp_path, zh=ZH.replace("# 结果", "## 结果"))
    assert "heading # {#sec-results} against heading ## {#sec-results}" in report_check.problems(tmp_path)[0]
    write_texts(tmp_path, zh=ZH.replace("if 07", "if 08"))
    assert "conditions differ" in report_check.problems(tmp_path)[0]
    write_texts(tmp_path, zh=ZH.replace("(figures/result)", "(figures/other)"))
    assert "figures differ" in report_check.problems(tmp_path)[0]


@pytest.mark.parametrize(
    "typed",
    [
        "It is 12 %.",
        "It is 97.35%.",
        "It gains 12.3 points.",
        "It gains +22.0 here.",
        "It loses \u22123.",
        "提高 12.5 个百分点。",
    ]
    + ["占百分之十二。", "about 12 percent", "占 12％。", "fell by -0.5 there"],
)
def test_typed_result_is_a_problem_with_its_line(tmp_path, typed):
    write_texts(tmp_path, en=EN.replace("It is clear.", typed))
    found = [told for told in report_check.problems(tmp_path) if "typed" in told]
    assert len(found) == 1 and f"line {line_of('It is clear.')}:" in found[0]


@pytest.mark.parametrize(
    "prose",
    [
        "In 2024 (pp. 3201-3219), version 3.12, section 4.2.",
        "`12 %` and $p = 12\\%$",
        "A 95 % interval.",
        "GPT-4, gpt-3.5-turbo",
    ]
    + [
        "[a link](https://example.org/a%20b)",
        "95 % 区间",
        "three points",
        "<!-- if mini.a > -0.5 -->\nx\n<!-- end -->",
    ],
)
def test_other_numbers_are_no_problem(tmp_path, prose):
    write_texts(tmp_path, en=EN.replace("It is clear.", prose))
    assert not [told for told in report_check.problems(tmp_path) if "typed" in told]
