import copy
from pathlib import Path

import pytest
import yaml

from bpo_utils import paths, profile


def values(name: str) -> dict:
    return copy.deepcopy(yaml.safe_load((paths.PROFILES / f"{name}.yaml").read_text(encoding="utf-8")))


def changed(place: str, value) -> dict:
    result = inner = values("paper")
    *parents, last = place.split(".")
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return result


@pytest.mark.parametrize("name", ["mini", "recorded", "paper", "upstream", "lora", "smoke"])
def test_every_profile_loads(name):
    loaded = profile.load(name)
    assert loaded.name == name and name in profile.names()
    assert bool(loaded.stops_because) == ("06" not in loaded.notebooks)


def test_the_paper_profile_holds_the_papers_values():
    training, rewriting = profile.load("paper").training, profile.load("paper").rewriting
    assert (training.epochs, training.learning_rate, training.adam_betas) == (3, 2e-5, (0.9, 0.999))
    assert (training.warmup_ratio, training.global_batch, training.micro_batch) == (0.1, 32, 4)
    assert (rewriting.temperature, rewriting.top_p, rewriting.max_new_tokens) == (0.6, 0.9, 1024)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("training.learning_rat", 1.0, r"training\.learning_rat: unknown key \(did you mean 'learning_rate'\?\)"),
        ("filters.min_growth", 2.0, r"filters\.min_growth: unknown key \(did you mean 'max_growth'\?\)"),
        ("notebok", [], r"notebok: unknown key \(did you mean 'notebooks'\?\)"),
        ("training.epochs", "3", r"training\.epochs: .*integer, got '3'"),
        ("training.adam_betas", [0.9], r"training\.adam_betas\.1: Field required"),
        ("training.adam_betas", [0.9, "0.999"], r"training\.adam_betas\.1: .*number, got '0\.999'"),
        ("data.test_rows", {"dolly": 1.5}, r"data\.test_rows\.dolly: .*integer, got 1\.5"),
        ("notebooks", "01", r"notebooks: .*list, got '01'"),
        ("answer_models", [{"name": "x"}], r"answer_models\.0\.provider: Field required"),
        ("cell_timeout_s", None, r"cell_timeout_s: .*integer, got None"),
    ],
)
def test_a_wrong_value_is_named(place, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        profile.parse(changed(place, value), Path("p.yaml"))
    assert str(caught.value).startswith("p.yaml is not a valid profile:\n")


def test_a_missing_key_is_named():
    incomplete = values("mini")
    del incomplete["data"]["source"]
    with pytest.raises(ValueError, match=r"data\.source: Field required"):
        profile.parse(incomplete, Path("p.yaml"))


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(ValueError, match=r"no profile 'recoded' \(did you mean 'recorded'\?\); there are .*mini"):
        profile.load("recoded")


def test_a_profile_cannot_change_during_a_run():
    with pytest.raises(ValueError, match="frozen"):
        profile.load("mini").training.epochs = 9


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("training.offload", "all", r"training: .*offload: all needs zero_stage: 3, not 2"),
        ("training.zero_stage", None, None),
        ("training.offload", "optimizer", None),
        ("training.batching", "packed", r"training\.batching: Input should be 'flat' or 'pad'"),
        ("training.max_lenght", 5, r"training\.max_lenght: unknown key \(did you mean 'max_length'\?\)"),
    ],
)
def test_training_settings_that_do_not_fit_together_are_refused(place, value, message):
    if message is None:
        assert profile.parse(changed(place, value), Path("paper.yaml"))
        return
    with pytest.raises(ValueError, match=message):
        profile.parse(changed(place, value), Path("paper.yaml"))


def test_adapters_cannot_be_cut_up_by_zero_3():
    own = changed("training.lora", {"rank": 4, "alpha": 8})
    own["training"]["zero_stage"] = 3
    with pytest.raises(ValueError, match="lora with zero_stage: 3 cannot be merged"):
        profile.parse(own, Path("paper.yaml"))
