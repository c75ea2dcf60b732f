"""Names, units and makers of the report's numbers."""

import pytest
from made_notebooks import write_notebook

from bpo_utils import notebook, report_published
from bpo_utils.notebook import Place, WrongUse
from bpo_utils.report_format import Number, interval, kind_of, text
from bpo_utils.report_makers import Makers
from bpo_utils.report_numbers import Numbers, joined, leaves, row_names


def shown(value, kind, *filters):
    return text(Number("x.y", value, kind), filters)


@pytest.mark.parametrize(
    ("value", "kind", "filters", "said"),
    [
        (0.40027, "points", (), "+40.0"),
        (-0.0449, "points", (), "\u22124.5"),
        (-0.0001, "points", (), "0.0"),
        (0.3053, "percent", (), "30.5\u00a0%"),
        (0.3053, "percent", ("digits=0",), "31\u00a0%"),
        (14395, "count", (), "14,395"),
        (1e-9, "p", (), "<\u00a00.001"),
        (0.0234, "p", (), "0.023"),
        (2e-5, "plain", (), "2\u00a0×\u00a010⁻⁵"),
        (0.21529, "plain", (), "0.215"),
        (3.14159, "plain", ("digits=1",), "3.1"),
        (0.5, "points", ("percent",), "50.0\u00a0%"),
        (0.5, "points", ("plain",), "0.5"),
        (0.179, "width", (), "17.9"),
        (-0.0003, "width", (), "0.0"),
        (-0.179, "width", (), "−17.9"),
        (-0.0003, "percent", (), "0.0\u00a0%"),
        ("mini:base", "text", (), "mini:base"),
    ],
)
def test_numbers_are_written_by_their_unit(value, kind, filters, said):
    assert shown(value, kind, *filters) == said


def test_a_count_is_never_shown_as_a_share():
    with pytest.raises(ValueError, match="346 is a count and no share"):
        text(Number("a.n", 346, "count"), ("percent",))


def test_interval_has_the_percent_sign_once():
    share, low, high = (Number("a.b", value, "percent") for value in (0.5, 0.4, 0.6))
    assert interval(share, low, high) == "50.0\u00a0[40.0,\u00a060.0]\u00a0%"


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("mini.pooled.mini_strong.rubric.net_win", 0.4, "points"),
        ("mini.pooled.mini_strong.rubric.B", 0.5, "percent"),
        ("mini.pooled.mini_strong.rubric.B_count", 401, "count"),
        ("mini.align.comparisons.rlhf.BPO_DPO.rubric.B", 401, "count"),
        ("mini.iterate.rows.noise.noise_0.rubric.share_B", 0.3, "percent"),
        ("mini.pooled.mini_strong.rubric.p_holm", 0.1, "p"),
        ("mini.pooled.mini_strong.rubric.lc_win_score", 0.5, "percent"),
        ("mini.pooled.mini_strong.rubric.smallest_detectable", 0.1, "width"),
        ("mini.rewriter.growth_words_median", 2.8, "plain"),
        ("mini.rewriter.topics_kept_unseen", 0.9, "percent"),
        ("mini.training.learning_rate", 0.002, "plain"),
        ("mini.iterate.rubric.1.mean", 0.2, "points"),
        ("mini.cards.t4_same_size.ours", 0.2, "points"),
        ("mini.data.provenance.source", "miniature", "text"),
    ],
)
def test_a_name_decides_its_unit(name, value, kind):
    assert kind_of(name, value) == kind


def test_json_becomes_names():
    value = {
        "rows": [{"judge": "rubric", "round": 0, "mean": 0.1}, {"judge": "rubric", "round": 1, "mean": 0.2}],
        "self-BLEU, median": 3.0,
        "spread": [0.1, 0.2],
        "said": {"en": "yes", "zh": "是"},
        "counted": {"n": 4, "counts": {"A": 1, "B": 2}},
    }
    names = dict(leaves(value, "mini.iterate"))
    assert names["mini.iterate.rows.rubric.1.mean"] == 0.2 and names["mini.iterate.self_BLEU_median"] == 3.0
    assert names["mini.iterate.spread.1"] == 0.2 and names["mini.iterate.said"] == {"en": "yes", "zh": "是"}
    assert names["mini.iterate.counted.B"] == 0.5 and names["mini.iterate.counted.B_count"] == 2
    assert [row["round"] for row in names["mini.iterate.rows"]] == [0, 1]


def test_rows_are_named_by_leading_texts_then_numbers_then_place():
    assert row_names([{"a": "x", "b": 1.5}, {"a": "y", "b": 1.5}]) == [("x",), ("y",)]
    assert row_names([{"a": "x", "b": 1.5}, {"a": "x", "b": 2.5}]) == [("x", 1.5), ("x", 2.5)]
    assert row_names([{"a": "x"}, {"a": "x"}]) == [(0,), (1,)]
    assert row_names([{"filter": "too short", "limit": "3"}]) == [("too short",)]
    assert row_names([{"row": {"en": "a", "zh": "b"}, "value": 1}]) == [(0,)]
    assert joined("mini.align", "7B+BPO", 0.5) == "mini.align.7B_BPO.0_5"


def test_published_numbers_have_value_unit_and_place():
    numbers = Numbers()
    report_published.add(numbers)
    told = {
        "paper.t3.gpt_3_5_turbo.dwr": ("+22.0", "paper, Table 3: gpt-3.5-turbo"),
        "paper.t4.llama_2_chat.13B_BPO.70B.vicuna": ("+22.6", "paper, Table 4"),
        "paper.t6.llama_13b.BPO_52k.vic_a": ("93.8\u00a0%", "paper, Table 6"),
        "paper.t7.w_o_FDBK.ori.dwr": ("+4.6", "paper, Table 7"),
        "paper.t1.overall.kept_n": ("14,395", "paper, Table 1"),
        "paper.training.learning_rate": ("2\u00a0×\u00a010⁻⁵", "Appendix C"),
        "paper.course.accuracy_canonical": ("97.35\u00a0%", "course report"),
        "paper.course.accuracy_paraphrase": ("20.3\u00a0%", "course report"),
    }
    for name, (said, place) in told.items():
        assert text(numbers.by_name[name]) == said and place in numbers.by_name[name].source["en"]
    assert all(set(each.source) == {"en", "zh"} for each in numbers.by_name.values())


def makers(folder, *cells, writes=("06_results/results.json", "figures/one.png"), listed=""):
    write_notebook(folder / "notebooks" / "06_results.ipynb", *cells, writes=writes)
    (folder / "makers.yaml").write_text(listed, encoding="utf-8")
    return Makers(notebook.find(folder / "notebooks"), Place(folder / "run", folder / "figures"), folder)


@pytest.mark.parametrize(
    ("file", "key", "cells", "cell"),
    [
        ("06_results/results.json", "", ["x = read_json('results.json')", "write_json(f / 'results.json', x)"], 3),
        (
            "06_results/results.json",
            "late",
            ["write_json(f / 'results.json', x)", "x['late'] = 1\nwrite_json(f / 'results.json', x)"],
            3,
        ),
        (
            "06_results/results.json",
            "soon",
            ["x['soon'] = 1", "write_json(f / 'results.json', x)", "write_json(f / 'results.json', x)"],
            3,
        ),
        ("figures/one", "", ["plots.one_figure(figures / 'one')", "show.image(figures / 'one.png')"], 2),
        ("figures/one_zh", "", ["rounds(results, figures / 'one')\nrounds(results, figures / 'one_zh')"], 2),
        ("figures/one", "", ["for name in ('one', 'one_zh'):\n    draw(results, figures / name)"], 2),
    ],
)
def test_the_cell_that_writes_a_file_is_found(tmp_path, file, key, cells, cell):
    assert makers(tmp_path, *cells).cell(file, key)[1] == f"cell-{cell}"


def test_no_cell_or_several_are_an_error_unless_listed(tmp_path):
    twice = ["plots.one_figure(figures / 'one')"] * 2
    with pytest.raises(WrongUse, match=r"several cells of 06_results write it \(cell-2, cell-3\)"):
        makers(tmp_path, *twice).cell("figures/one")
    with pytest.raises(WrongUse, match="several cells"):
        makers(tmp_path, *["x['k'] = 1\nwrite_json(f / 'results.json', x)"] * 2).cell("06_results/results.json", "k")
    with pytest.raises(WrongUse, match=r"found in none .*makers\.yaml"):
        makers(tmp_path, "train(folder)").cell("06_results/results.json")
    assert makers(tmp_path, "train(folder)", listed="06_results/results.json: cell-2").cell("06_results/results.json")
    with pytest.raises(WrongUse, match="found in none"):
        makers(tmp_path, "train(folder)", listed="06_results/results.json: gone").cell("06_results/results.json")
    with pytest.raises(WrongUse, match=r"made by 06_results \(never run\)"):
        makers(tmp_path, "write_json(f / 'results.json', x)").of("06_results/results.json")
