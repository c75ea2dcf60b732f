"""What the report takes from notebook 10: cards, names, and its section in both languages."""

import base64
import re

import pytest
import report_run

from bpo_utils import paths, profile, records, report, reproduced
from bpo_utils.embodied import chapter, measure
from bpo_utils.embodied.measure import Outcome

GOOD, BAD = {"remedied": 0.8, "floor": 0.75}, {"remedied": 0.25, "floor": 0.15}


def verdicts(**numbers):
    cards = chapter.cards(report_run.embodied_results(**numbers), profile.load("mini"))
    return {(card.claim, card.label): card.verdict for card in cards}


def row(mean, half):
    return {"mean": mean, "ci_low": mean - half, "ci_high": mean + half, "episodes": 9, "seeds": 3}


def test_cards_follow_the_signs_of_drop_and_gains():
    assert verdicts(**GOOD) == {
        ("e_canonical", "canonical"): "agrees",
        ("e_paraphrase", "frames_unseen"): "agrees",
        ("e_paraphrase", "synonyms_unseen"): "agrees",
        ("e_paraphrase", "both_unseen"): "agrees",
        ("e_augmentation", "both_known"): "agrees",
        ("e_augmentation", "both_mixed"): "agrees",
        ("e_augmentation", "both_unseen"): "cannot tell",
        ("e_module", "both_known"): "agrees",
        ("e_module", "both_mixed"): "agrees",
        ("e_module", "both_unseen"): "cannot tell",
    }
    assert verdicts(remedied=0.1, floor=0.99)["e_augmentation", "both_known"] == "differs"
    assert verdicts(remedied=0.1, floor=0.99)["e_canonical", "canonical"] == "cannot tell"


def test_cards_say_what_they_measured_and_where_the_claim_is_from():
    results = report_run.embodied_results(**GOOD)
    cards = chapter.cards(results, profile.load("mini"))
    assert all((card.n, card.seeds, card.comparable) == (150, 2, False) for card in cards)
    (gain,) = [card for card in cards if (card.claim, card.label) == ("e_module", "both_known")]
    assert (gain.ours, gain.low, gain.high) == pytest.approx((0.55, 0.5, 0.6))
    rows = {row["claim"]: row for row in reproduced.as_rows(cards)}
    assert all(row["source"]["en"].startswith("course report, embodied application") for row in rows.values())
    assert "action accuracy" in rows["e_paraphrase"]["measure"]["en"] and "success" in rows["e_module"]["measure"]["en"]


def test_the_interval_of_a_difference_comes_from_both_of_its_parts():
    found = chapter.apart(row(0.9, 0.03), row(0.5, 0.04))
    assert (found["difference"], found["ci_low"], found["ci_high"]) == pytest.approx((0.4, 0.35, 0.45))
    assert (found["episodes"], found["seeds"]) == (9, 3)
    lopsided = chapter.apart(row(0.9, 0.1) | {"ci_high": 0.94}, row(0.5, 0.0))
    assert (lopsided["ci_low"], lopsided["ci_high"]) == pytest.approx((0.3, 0.44))
    assert chapter.apart(row(0.9, 0.9), row(-0.9, 0.9))["ci_high"] == 1.0


def test_names_hold_for_any_sizes_of_the_curve_and_without_paraphrases():
    results = report_run.embodied_results(**GOOD)
    assert {name: of["pairs"] for name, of in results["named"]["curve"].items()} == {
        "none": 0,
        "fewest": 100,
        "most": 400,
    }
    assert results["named"]["curve"]["most"]["both_known"]["mean"] == pytest.approx(0.6)
    assert results["named"]["paraphrases"] == {"said": 800, "right": 600, "share": 0.75}
    for sizes, names in (((0,), ["none"]), ((100,), ["fewest", "most"]), ((), [])):
        few = results | {"curve": [row for row in results["curve"] if row["pairs"] in sizes], "paraphrases": []}
        named = chapter.named(few)
        assert list(named["curve"]) == names and "paraphrases" not in named


def test_names_have_the_remedies_side_by_side_and_the_drops_of_every_metric():
    named = report_run.embodied_results(**GOOD)["named"]
    (known,) = [row for row in named["table"] if (row["metric"], row["condition"]) == ("success", "both_known")]
    assert (known["none"], known["module"], known["module_high"]) == pytest.approx((0.25, 0.8, 0.85))
    (gain,) = [row for row in named["gains"] if row["condition"] == "both_known"]
    assert set(gain) == {"condition"} | {
        f"{a}{b}" for a in ("augmentation", "module", "both") for b in ("", "_low", "_high")
    }
    assert [row["control"] for row in named["controls"]][:2] == ["none", "blind"]
    assert named["drop"]["both_unseen"]["success"]["difference"] == pytest.approx(0.65)
    assert named["over_blind"]["both_unseen"]["action_accuracy"]["difference"] == pytest.approx(0.625 - 0.75)


def test_names_take_the_rows_that_the_study_makes():
    outcomes = [[Outcome(4, 3, True), Outcome(6, 6, False)], [Outcome(4, 4, True), Outcome(6, 5, True)]]
    made = {row["metric"]: row for row in measure.rows({}, outcomes)}
    gap = chapter.apart(made["success"], made["exact_sequence"])
    assert gap["difference"] == pytest.approx(0.25) and gap["ci_low"] < 0.25 < gap["ci_high"]
    shares = [*made.values(), measure.difference({}, outcomes, outcomes[::-1])]
    ends = [row[end] for row in shares for end in ("mean", "ci_low", "ci_high")]
    assert 0.0 in ends and -1.0 in ends and all(isinstance(end, float) for end in ends)  # a whole number is a count


@pytest.fixture
def build(run_folder, tmp_path):
    """A function that builds the report on notebook 10 with made-up results: {name: page}."""
    sources = report_run.make(tmp_path)

    def of(results):
        written = report.build(report_run.add_embodied(sources, results))
        assert [path.name for path in written] == ["en.html", "en.pdf", "zh.html", "zh.pdf"]
        return {path.stem: path.read_text(encoding="utf-8") for path in written if path.suffix == ".html"}

    return of


def test_the_section_says_what_the_numbers_say(build):
    good = build(report_run.embodied_results(**GOOD))
    assert "Unseen synonyms do harm beyond ignorance" in good["en"] and "no remedy shows a gain" in good["en"]
    assert "The report's second figure lies below our floor" in good["en"].replace("’", "'")
    assert "未见的同义词比听不懂更有害" in good["zh"] and "报告的第二个数字低于我们的下限" in good["zh"]
    bad = build(report_run.embodied_results(**BAD))
    assert (
        "this run cannot tell" in bad["en"] and "stay unsolved" not in bad["en"] and "below our floor" not in bad["en"]
    )
    assert (
        "是否比没有句子更糟，本次运行说不清" in bad["zh"]
        and "没有哪种补救显示出增益" in bad["zh"]
        and "低于我们的下限" not in bad["zh"]
    )

    results = report_run.embodied_results(**GOOD)
    results["gains"] = [
        row | {"ci_low": 0.1} if row["condition"] == "synonyms_unseen" else row for row in results["gains"]
    ]
    other = build(results)
    assert "or by guessing" in other["en"] and "no remedy shows a gain" not in other["en"]
    assert "或者来自猜测" in other["zh"] and "没有哪种补救显示出增益" not in other["zh"]


def test_every_number_and_figure_of_the_section_leads_to_a_cell_of_notebook_10(build):
    pages = build(report_run.embodied_results(**GOOD))
    folder = paths.run_dir("mini") / "report"
    notebook = (folder / "notebooks/10_embodied.html").read_text(encoding="utf-8")
    for language, width in (("en", 90), ("zh", 70)):
        page = pages[language]
        rows = [row for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL) if "<code>mini.embodied." in row]
        links = re.findall(r'href="notebooks/10_embodied.html#([^"]*)"', page)
        assert len(rows) > 40 and all('href="notebooks/10_embodied.html#write"' in row for row in rows)
        assert all(f'<div id="{cell}" class="cell code"' in notebook for cell in links)
        assert {"write", "cards", "bars", "controls-figure", "curve", "strip", "saliency"} <= set(links)
        assert page.count(base64.b64encode(report_run.SVG.format(width=width).encode()).decode()) == 5
        assert "fig-embodied-saliency" in page and "tbl-embodied-gains" in page


def test_without_the_notebook_the_section_says_so(run_folder, tmp_path):
    sources = report_run.make(tmp_path)
    report_run.write_texts(sources.report, report_run.embodied_text("en"), report_run.embodied_text("zh"))
    records.write_text(sources.report / "references.bib", records.read_text(paths.REPORT / "references.bib"))
    for language, absent in (("en", "were not run for this report"), ("zh", "没有为本报告运行")):
        text = records.read_text(sources.report / f"{language}.md")
        without = re.sub(
            r"\{\{ (ref tbl-cards|table mini.cards).*?\}\}|^: .*tbl-cards\}$", "", text, flags=re.MULTILINE
        )
        records.write_text(sources.report / f"{language}.md", without)
        (page, _) = report.build(report.Sources(sources.profile, sources.report, sources.notebooks), (language,))
        shown = page.read_text(encoding="utf-8")
        assert shown.count(absent) == 1 and "fig-embodied" not in shown
