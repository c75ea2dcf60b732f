"""Notebook 09's figures, from made-up rows."""

import warnings

import pytest
import yaml

from bpo_utils import paths, records
from bpo_utils.search import figures, lineage, statistics

METHODS = ("seed", "paraphrases", "ape", "iterative_ape", "curriculum", "opro", "abo")
NAMES = {"scores": "scores", "curves": "curves", "evidence": "ablation", "costs": "costs", "budgets": "study"}


def results():
    """Made-up rows of every kind."""
    made = {"label": "miniature", "seeds": [1, 2], "scores": [], "curves": [], "costs": [], "study": [], "ablation": []}
    made |= {"against_bpo": [], "duels": []}
    for place, method in enumerate(METHODS):
        names, value = {"method": method, "name": statistics.name_of(method)}, 0.3 + 0.03 * place
        around = {"ci_low": value - 0.05, "ci_high": value + 0.05, "n": 20, "seeds": 2}
        for budget in (24, 48, 96):
            made["scores"].append(names | {"budget": budget, "test": value} | around)
            made["study"].append(names | {"budget": budget, "regret": value} | around)
            cost = {"planned_target": 96, "target_calls": 90.0, "planned_optimizer": 9, "optimizer_calls": 8.0}
            cost |= {"target_tokens": 9000.0, "optimizer_tokens": 4000.0, "cached": budget}
            made["costs"].append(names | {"budget": budget} | cost)
        for calls in (0, 24, 90):
            band = {"dev": value + calls / 900, "dev_low": value, "dev_high": value + calls / 500}
            made["curves"].append(names | {"target_calls": calls} | band)
    for method in ("opro", "protegi"):
        both = {"test": 0.5, "blind_test": 0.4, "difference": 0.1, "ci_low": -0.02, "ci_high": 0.2, "p_holm": 0.04}
        made["ablation"].append({"method": method, "budget": 48, "n": 20, "seeds": 2} | both)
    for method in ("original", "bpo", "seed", "opro"):
        for which in [""] if method in ("original", "bpo") else ["chosen", "seeds"]:
            score = {"test": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 20}
            made["against_bpo"].append({"method": method, "which": which} | score)
        for judge in ("rubric", "preference"):
            net = {"net_win": 0.3, "ci_low": 0.1, "ci_high": 0.5}
            made["duels"].append({"first": "bpo", "second": method, "judge": judge} | net)
    made["duels"] = [row for row in made["duels"] if row["second"] != "bpo"]
    return made


def tree():
    nodes = [("c0", 0, "seed", 0.2, True), ("c1", 1, "edit", 0.3, False), ("c2", 1, "edit", None, False)]
    nodes += [("c3", 2, "paraphrase", 0.5, True)]
    keys = ("id", "step", "operator", "score", "dev")
    made = [dict(zip(keys, node, strict=True)) | {"text": node[0], "demo": "", "rows": 4} for node in nodes]
    told = {"method": "opro", "budget": 24, "seed": 1, "trace": [], "nodes": made, "path": ["c0", "c1", "c3"]}
    return told | {"edges": [["c0", "c1"], ["c0", "c2"], ["c1", "c3"], ["c2", "c3"]]}


def check(draw, tmp_path, language):
    """Drawn twice: the same bytes, the miniature named, no letter missing from the font."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = draw(tmp_path / "one"), draw(tmp_path / "two")
    assert [path.suffix for path in first] == [".png", ".pdf", ".svg", ".json"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    data = records.read_json(first[3])
    assert {"en": "miniature", "zh": "微缩实验"}[language] in data["title"]
    return data


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", [*NAMES, "against"])
def test_figures_name_the_miniature_and_are_the_same_again(tmp_path, name, language):
    data = check(lambda stem: getattr(figures, name)(results(), stem, language), tmp_path, language)
    if name == "costs":  # what the store knew before depends on the order of searches
        assert "cached" not in data["rows"][0] and {row["budget"] for row in data["rows"]} == {96}
    if name in NAMES:
        with pytest.raises(ValueError, match="run notebook 09"):
            getattr(figures, name)(results() | {NAMES[name]: []}, tmp_path / "none", language)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_lineage_is_drawn_without_what_was_never_scored(tmp_path, language):
    data = check(lambda stem: lineage.draw(tree(), "miniature", stem, language), tmp_path, language)
    assert data["path"] == ["c0", "c1", "c3"]
    svg = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert svg.count('id="line2d_') > 8
    nothing = tree() | {"nodes": [node | {"score": None} for node in tree()["nodes"]]}
    with pytest.raises(ValueError, match="nothing to draw"):
        lineage.draw(nothing, "miniature", tmp_path / "none", language)


def test_a_task_without_rewrites_of_bpo_has_a_figure_that_says_so(tmp_path):
    paths_of = figures.against(results() | {"against_bpo": [], "duels": []}, tmp_path / "none")
    assert "no rewrites" in paths_of[2].read_text(encoding="utf-8") or records.read_json(paths_of[3])["rows"] == []


def test_every_label_is_there_in_both_languages_and_in_the_font():
    from fontTools.ttLib import TTFont

    known = set(TTFont(paths.FONT).getBestCmap()) | {ord("\n")}
    words = yaml.safe_load((paths.PACKAGE / "search" / "labels.yaml").read_text(encoding="utf-8"))
    for name, entry in words.items():
        assert set(entry) == {"en", "zh"}, name
        assert not {letter for text in entry.values() for letter in text if ord(letter) not in known}, name
    assert figures.name_in(figures.words_of("zh", "miniature"), "seed") == "初始提示"
    assert figures.name_in(figures.words_of("en", "miniature"), "opro") == "OPRO"
