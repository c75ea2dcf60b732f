"""Notebook 07's figures and cards, from made-up rows."""

import pytest

from bpo_utils import profile, records
from bpo_utils.further import experiments, figures, named

SMOKE = profile.load("smoke")


def results():
    """Made-up rows of every kind."""
    rows, steps = [], []

    def add(experiment, setting, model, against, value, **more):
        for judge, shift in (("rubric", 0.0), ("preference", -0.05)):
            names = {"experiment": experiment, "setting": setting, "answer_model": model, "judge": judge}
            net = {"net_win": value + shift, "ci_low": value + shift - 0.1, "ci_high": value + shift + 0.1}
            rows.append(names | {"against": against} | net | {"n": 20, "seeds": 3} | more)

    for number in range(1, 4):
        add("iterate", f"round_{number}", "mini-middle", "original", 0.1 * number, round=number)
    for model in ("mini-weak", "mini-middle", "mini-strong"):
        add("feedback", "bpo", model, "original", 0.4)
        add("feedback", "no_feedback", model, "original", 0.1)
        add("feedback", "bpo", model, "no_feedback", 0.3)
        add("scaling", f"{model}+bpo", model, "mini-strong", 0.2)
        if model != "mini-strong":
            add("scaling", model, model, "mini-strong", -0.3)
    for size in (40, 320):
        add("sizes", f"pairs_{size}", "mini-middle", "original", 0.3, pairs=size)
    for share in (0.0, 0.4):
        add("noise", f"noise_{share:.0%}", "mini-middle", "original", 0.2 - share, noise=share, pairs=40)
    for judge in ("rubric", "preference"):
        names = {"answer_model": "mini-middle", "judge": judge, "n": 20, "seeds": 3}
        steps.append({"setting": "round_1_to_2", "difference": -0.1, "ci_low": -0.2, "ci_high": -0.05} | names)
        steps.append({"setting": "round_2_to_3", "difference": 0.01, "ci_low": -0.02, "ci_high": 0.03} | names)
    drift = [
        {"experiment": "iterate", "setting": f"round_{n}", "unchanged": 0.3 * n, "flagged": 0.1, "growth": 2.0}
        for n in range(1, 4)
    ]
    made = {"label": "miniature", "n": 20, "seeds": [1, 2, 3], "answer_model": "mini-middle", "drift": drift}
    return made | {"rows": rows, "steps": steps}


@pytest.mark.parametrize("name", ["iterate", "ablation", "scaling", "curves"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_figures_name_the_miniature_and_are_the_same_again(tmp_path, name, language):
    draw = getattr(figures, f"{name}_figure")
    first = draw(results(), tmp_path / "one", language)
    second = draw(results(), tmp_path / "two", language)
    assert [path.suffix for path in first] == [".png", ".pdf", ".svg", ".json"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert {"en": "miniature", "zh": "微缩实验"}[language] in records.read_json(first[3])["title"]
    with pytest.raises(ValueError, match="run notebook 07"):
        draw(results() | {"rows": []}, tmp_path / "none", language)


def test_cards_are_those_of_this_notebook():
    run = SMOKE.model_copy(update={"iterating": SMOKE.iterating.model_copy(update={"rounds": 3})})
    cards = experiments.cards(results(), run)
    claims = {"f3_first_round": 2, "f3_saturates": 2, "t7_bpo_vs_original": 2, "t7_without_feedback": 2}
    claims |= {"t7_bpo_vs_without_feedback": 2, "f7_small_bpo_vs_large": 4, "f3_later_rounds": 2}
    assert {name: sum(card.claim == name for card in cards) for name in claims} == claims and len(cards) == 16
    assert {card.verdict for card in cards if card.claim == "t7_bpo_vs_original"} == {"agrees"}
    assert {card.verdict for card in cards if card.claim == "f3_saturates"} == {"agrees"}
    assert {card.verdict for card in cards if card.claim == "f3_later_rounds"} == {"differs"}


def test_named_rows_do_not_depend_on_the_settings():
    found = named.named(results())
    assert found["first_round"]["rubric"]["net_win"] == 0.1 and found["last_round"]["rubric"]["round"] == 3
    assert found["second_round"]["preference"]["difference"] == -0.1
    assert [found[name]["rubric"]["pairs"] for name in ("fewest_pairs", "fewer_pairs", "all_pairs")] == [40, 40, 320]
    assert found["most_noise"]["rubric"]["noise"] == 0.4 and found["drift_last_round"]["unchanged"] > 0.8
    assert all(isinstance(value, int | float) for value in found["first_round"]["rubric"].values())
