import json
import re
from types import SimpleNamespace

import pytest
import yaml

from bpo_utils import paths, plots, profile, reproduced, reproduced_html
from bpo_utils.stats import smallest_detectable

FACTS = yaml.safe_load((paths.FACTS / "claims.yaml").read_text(encoding="utf-8"))
CLAIMS = [
    *("report_b_beats_a", "report_strongest_ties_most", "t3_api_models"),
    *("t4_same_size", "f3_first_round", "f3_later_rounds", "f3_saturates"),
    *("t7_bpo_vs_original", "t7_without_feedback", "t7_bpo_vs_without_feedback"),
    *("f7_small_bpo_vs_large", "t5_ppo_vs_original", "t5_bpo_vs_ppo"),
    *("t5_bpo_ppo_vs_original", "t5_bpo_ppo_vs_ppo", "t5_dpo_vs_original"),
    *("t5_bpo_vs_dpo", "t5_bpo_dpo_vs_original", "t5_bpo_dpo_vs_dpo"),
    *("t6_small", "t6_full", "h_bpo_vs_opro", "h_original_vs_opro"),
    *("e_canonical", "e_paraphrase", "e_augmentation", "e_module"),
]
DIRECTION, EQUAL, AT_MOST = "t5_bpo_vs_ppo", "t5_bpo_vs_dpo", "f3_saturates"


def verdict(claim, low, high, **more):
    return reproduced.card(claim, (low + high) / 2, low, high, 732, **more).verdict


def cell(test_set="dolly", model="m", judge="j", net=0.3, half=0.1, p_holm=0.001, n=200):
    counts = {"B": round(n * (0.5 + net / 2)), "A": round(n * (0.5 - net / 2)), "C": 0, "invalid": 0, "refused": 0}
    numbers = {"n": n, "counts": counts, "net_win": net, "ci_low": net - half, "ci_high": net + half, "p_holm": p_holm}
    return {"test_set": test_set, "answer_model": model, "judge": judge, **numbers}


def test_every_claim_has_both_languages_and_known_reasons():
    assert list(FACTS["claims"]) == CLAIMS
    for name, texts in (FACTS["words"] | FACTS["reasons"]).items():
        assert set(texts) - {"only"} == {"en", "zh"}, name
    for name, entry in FACTS["claims"].items():
        assert set(entry["text"]) == {"en", "zh"} and entry["notebook"] in {"06", "07", "08", "09", "10"}, name
        assert set(entry["reasons"]) == {"agrees", "differs", "cannot tell"}
        for listed in entry["reasons"].values():
            for kind in ("miniature", "real"):
                fitting = [one for one in listed if FACTS["reasons"][one].get("only", kind) == kind]
                assert fitting, f"{name}: no reason for a {kind} run among {listed}"
    used = {reason for entry in FACTS["claims"].values() for listed in entry["reasons"].values() for reason in listed}
    assert used == set(FACTS["reasons"])


def test_both_languages_fill_in_the_same_numbers():
    for name, texts in FACTS["words"].items():
        holes = [set(re.findall(r"{\w+}", texts[language])) for language in ("en", "zh")]
        assert holes[0] == holes[1], name


def test_no_win_rate_is_typed_beside_the_claims():
    text = re.sub(r"vicuna-\w+-v1.3|claude-instant-1.2", "", json.dumps(FACTS["claims"], ensure_ascii=False))
    for row in (row for number in range(3, 13) for row in plots.paper_rows(f"T{number}")):
        assert not re.search(rf"(?<![\d.]){re.escape(str(abs(row['dwr_published'])))}(?!\d)", text)


@pytest.mark.parametrize(
    ("claim", "low", "high", "expected"),
    [
        (DIRECTION, 0.01, 0.2, "agrees"),
        (DIRECTION, -0.01, 0.2, "cannot tell"),
        (DIRECTION, -0.2, -0.01, "differs"),
        (EQUAL, -0.03, 0.05, "agrees"),  # published +0.2 and +0.9, two standard errors 7.8 points
        (EQUAL, -0.03, 0.2, "cannot tell"),
        (EQUAL, 0.1, 0.2, "differs"),
        (EQUAL, -0.2, -0.1, "differs"),
        (AT_MOST, -0.1, 0.04, "agrees"),
        (AT_MOST, -0.1, 0.06, "cannot tell"),
        (AT_MOST, 0.06, 0.1, "differs"),
    ],
)
def test_verdict_follows_from_where_the_interval_lies(claim, low, high, expected):
    assert verdict(claim, low, high) == expected


def test_in_the_miniature_only_the_sign_counts_and_with_real_models_the_value_too():
    assert verdict("t4_same_size", 0.5, 0.6) == "agrees"  # published +17.4, band 9.7 to 25.2
    assert verdict("t4_same_size", 0.5, 0.6, comparable=True) == "differs"
    assert verdict("t4_same_size", 0.2, 0.4, comparable=True) == "cannot tell"
    assert verdict("t4_same_size", 0.1, 0.2, comparable=True) == "agrees"
    assert verdict("t4_same_size", -0.1, 0.2, comparable=True) == "cannot tell"


def test_published_values_come_from_the_tables_and_bands_from_their_shares():
    (row,) = reproduced.as_rows([reproduced.card("t4_same_size", 0.1, 0.05, 0.15, 732)])
    assert row["published"][0]["value"] == 0.174 and row["published"][0]["se"] == pytest.approx(0.039, abs=0.001)
    assert row["band"] == pytest.approx([0.174 - 2 * 0.0386, 0.174 + 2 * 0.0386], abs=0.001) and row["inside"]
    (row,) = reproduced.as_rows([reproduced.card("t3_api_models", 0.1, 0.05, 0.15, 732)])
    assert [one["value"] for one in row["published"]] == [0.22, 0.101, 0.129, 0.088, 0.205]
    assert row["band"][0] < 0.088 < 0.22 < row["band"][1]
    (row,) = reproduced.as_rows([reproduced.card("f3_first_round", 0.1, 0.05, 0.15, 80)])
    assert row["published"][0]["value"] == 0.287 and row["published"][0]["se"] == pytest.approx(0.1016, abs=0.001)
    assert "Vicuna" in row["published"][0]["row"]["en"]


def test_about_equal_are_exactly_the_claims_within_the_noise_of_their_table():
    kinds = {name: reproduced.as_rows([reproduced.card(name, 0, -0.1, 0.1, 100)])[0]["kind"] for name in CLAIMS}
    assert [name for name in CLAIMS if kinds[name] == "about_equal"] == ["t7_without_feedback", "t5_bpo_vs_dpo"]
    assert [name for name in CLAIMS if kinds[name] == "at_most"] == ["f3_saturates"]


def test_needed_n_is_planned_with_the_published_value():
    """With all verdicts decided, the interval's half width is 1.96 / sqrt(n), the textbook's case."""
    n = 100
    half = 1.96 / n**0.5
    (row,) = reproduced.as_rows([reproduced.card("t4_same_size", 0.01, 0.01 - half, 0.01 + half, n)])
    needed = int(re.search(r"about ([\d,]+) questions", row["notes"][0]["en"])[1].replace(",", ""))
    assert smallest_detectable(needed, 0) <= 0.174 < smallest_detectable(int(needed * 0.95), 0)
    assert f"约需 {needed} 个问题" in row["notes"][0]["zh"]
    (row,) = reproduced.as_rows([reproduced.card("t4_same_size", 0.01, -0.05, 0.07, 1000)])
    assert row["notes"][0]["en"].startswith("1,000 questions would have shown the 17.4 published points")
    (row,) = reproduced.as_rows([reproduced.card("t5_bpo_vs_ppo", 0.01, -0.5, 0.5, 80, seeds=3)])
    assert "More seeds" in row["notes"][0]["en"]
    (row,) = reproduced.as_rows([reproduced.card("report_strongest_ties_most", 0.0, -0.0196, 0.0196, 80)])
    assert "2.8 points or more" in row["notes"][0]["en"]


def test_every_cell_has_to_hold():
    cells = [cell("dolly"), cell("vicuna", net=0.2), cell("pooled", net=-0.9)]
    found = reproduced.every_cell(cells)
    assert (found.verdict, found.ours, found.label) == ("agrees", 0.2, "Vicuna, m, j")
    assert found.note["en"].startswith("2 of 2 cells have B above A, 2 with an interval above zero, 2 still")
    assert reproduced.every_cell([*cells, cell(net=0.3, p_holm=0.06)]).verdict == "cannot tell"
    assert reproduced.every_cell([*cells, cell(net=0.05)]).verdict == "cannot tell"
    assert reproduced.every_cell([*cells, cell(net=-0.05)]).verdict == "cannot tell"
    assert reproduced.every_cell([*cells, cell(net=-0.3)]).verdict == "differs"
    with pytest.raises(ValueError, match="no cells"):
        reproduced.every_cell(cells[2:])


def test_mean_of_sets_weighs_sets_the_same_and_has_the_interval_of_independent_sets():
    rows = [cell("vicuna", net=0.5, n=80), cell("dolly", net=0.1, n=200)]
    mean, low, high, n = reproduced.mean_of_sets(rows)
    assert (mean, n) == (pytest.approx(0.3), 280)
    half = 1.96 * ((1 - 0.25) / 79 + (1 - 0.01) / 199) ** 0.5 / 2
    assert (low, high) == (pytest.approx(0.3 - half), pytest.approx(0.3 + half))


def test_a_set_whose_questions_all_came_out_alike_is_not_certain():
    alike = cell("vicuna", net=1.0, n=3) | {"ci_low": 0.29, "ci_high": 1.0}
    mean, low, high, _ = reproduced.mean_of_sets([alike])
    assert (mean, low, high) == (1.0, pytest.approx(1 - 0.355), 1.0)
    one = cell("dolly", net=1.0, n=1) | {"ci_low": -0.95, "ci_high": 1.0}
    assert reproduced.every_cell([one]).verdict == "cannot tell"


def results_of(models, run):
    panel = [cell(name, model, judge) for judge in ("j", "k") for model in models for name in ("dolly", "vicuna")]
    tie = {"stronger": models[-1], "weaker": models[-2], "judge": "j", "n": 200, "tie_stronger": 0.4, "tie_weaker": 0.2}
    ties = [tie | {"difference": 0.2, "ci_low": 0.1, "ci_high": 0.3}]
    return reproduced.results_cards({"panel": panel, "ties": ties}, run)


def test_cards_of_notebook_06_go_by_what_a_model_stands_for_not_by_its_name():
    found = results_of(["mini-weak", "mini-middle", "mini-strong"], profile.load("mini"))
    labels = [(one.claim, one.label) for one in found]
    assert labels[1] == ("report_strongest_ties_most", "mini-strong − mini-middle, j")
    assert [label for claim, label in labels if claim == "t3_api_models"] == [
        *("mini-middle, j", "mini-strong, j", "mini-middle, k", "mini-strong, k")
    ]
    assert [label for claim, label in labels if claim == "t4_same_size"] == ["mini-weak, j", "mini-weak, k"]
    assert not any(one.comparable for one in found)


def test_successors_under_their_own_names_take_the_places_of_the_paper_profile():
    found = results_of(["llama-2-7b", "gpt-5.6-terra", "gpt-6-luna"], profile.load("paper"))
    assert [one.label for one in found if one.claim == "t4_same_size"] == ["llama-2-7b, j", "llama-2-7b, k"]
    assert all(one.comparable for one in found)
    assert "t3_api_models" in {one.claim for one in found if one.verdict == "cannot tell"}
    assert "The sign agrees; the value" in reproduced.html(found) and "Judge version" in reproduced.html(found)
    assert "Miniature" not in reproduced.html(found)


def test_a_model_more_than_the_profile_has_is_an_error():
    run = SimpleNamespace(data=SimpleNamespace(source="miniature"), answer_models=[])
    with pytest.raises(ValueError, match="shorter"):
        results_of(["a", "b"], run)


def test_rows_are_json_and_give_the_same_page():
    cards = [reproduced.card(name, 0.1, -0.02, 0.2, 732, 3, "a < b") for name in CLAIMS]
    rows = json.loads(json.dumps(reproduced.as_rows(cards), allow_nan=False))
    for language in ("en", "zh"):
        page = reproduced.html(rows, language)
        assert page == reproduced.html(cards, language)
        assert page.count('class="claim"') == len(CLAIMS) and "a &lt; b" in page and "a < b" not in page


def test_a_card_shows_value_interval_band_verdict_and_at_most_three_reasons():
    cards = [reproduced.card(DIRECTION, *numbers) for numbers in ((0.3, 0.2, 0.4, 80), (0, -0.1, 0.1, 90))]
    cards.append(reproduced.card(DIRECTION, -0.3, -0.4, -0.2, 1732, 3))
    page = reproduced.html(cards)
    for text in (
        "+30.0",
        "[+20.0, +40.0]",
        "1,732 × 3 seeds",
        "Table 5 (judge gpt-4): vicuna-7b-v1.3, BPO against PPO",
    ):
        assert text in page
    for text in ("✓ agrees", "? cannot tell at this n", "✗ differs", "outside", "only the sign is tested"):
        assert text in page
    assert 1 <= page.count("<li>") <= 3
    assert "✓ 一致" in reproduced.html(cards, "zh") and "微缩实验" in reproduced.html(cards, "zh")


def test_reasons_are_those_of_the_kind_of_run():
    shown = {}
    for comparable in (False, True):
        (row,) = reproduced.as_rows([reproduced.card("t4_same_size", -0.3, -0.4, -0.2, 732, comparable=comparable)])
        shown[comparable] = " ".join(reason["en"] for reason in row["reasons"])
    assert "Training: a rewriter" in shown[False] and "Judge version" not in shown[False]
    assert "Judge version" in shown[True] and "Training" not in shown[True]


def test_reasons_begin_with_the_worst_verdict_and_leave_none_out():
    rows = reproduced.as_rows(
        [reproduced.card(DIRECTION, *numbers) for numbers in ((0.3, 0.2, 0.4, 80), (0, -1, 1, 9))]
    )
    shown = reproduced_html._reasons(rows, "en")
    assert shown[0] == rows[1]["reasons"][0]["en"] and rows[0]["reasons"][0]["en"] in shown


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="no claim 't5_bpo_vs_pp'.*did you mean 't5_bpo_vs_ppo'"):
        reproduced.card("t5_bpo_vs_pp", 0, -1, 1, 9)
    with pytest.raises(ValueError, match="needs fractions"):
        reproduced.card(DIRECTION, 13.8, 10, 20, 80)
    with pytest.raises(ValueError, match="needs fractions"):
        reproduced.card(DIRECTION, 0.1, 0.2, 0.3, 80)
    with pytest.raises(ValueError, match="language 'fr'; there are en, zh"):
        reproduced.html([], "fr")
