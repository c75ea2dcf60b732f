"""Notebook 10's figures, from made-up rows and real scenes."""

import random
import warnings

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.text import Text

from bpo_utils import paths, records
from bpo_utils.embodied import figures, study, world
from bpo_utils.embodied.measure import METRICS
from bpo_utils.embodied.wordings import CONDITIONS

NAMES = ("bars", "controls", "curve", "strip", "saliency")
SEED = 2_000_015  # of the test set: a task with two things
LONGEST = "move the vermilion carton so that it is next to the sapphire unlocker"  # of what the bank can say


def made(names):
    rng = random.Random(str(names))
    rows = []
    for metric in METRICS:
        mean = rng.random()
        ends = {"ci_low": max(0, mean - 0.05), "ci_high": min(1, mean + 0.05), "seeds": 3, "episodes": 200}
        rows.append(names | {"metric": metric, "mean": mean} | ends)
    return rows


def results():
    """Made-up rows of every kind; the second rollout never succeeds."""
    remedies, right = [*study.REMEDIES, *study.CONTROLS], world.demonstration(SEED).actions.tolist()
    rollouts = [{"condition": "canonical", "text": "put it", "actions": right, "success": True}]
    rollouts += [{"condition": "both_mixed", "text": LONGEST, "actions": [0] * 72 + [-1], "success": False}]
    weights = [[word, 0.4 - 0.05 * n] for n, word in enumerate(LONGEST.split())]
    return {
        "label": "miniature",
        "rows": [row for c in CONDITIONS for remedy in remedies for row in made({"condition": c, "remedy": remedy})],
        "curve": [row for c in CONDITIONS for n in (0, 25, 400) for row in made({"condition": c, "pairs": n})],
        "strip": {"seed": SEED, "policy": "fixed", "rows": rollouts},
        "saliency": [{"condition": c, "text": LONGEST, "remedy": "none", "words": weights} for c in CONDITIONS],
    }


def draw(name, given, path_stem, language):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter that the font lacks
        return getattr(figures, name)(given, path_stem, language)


@pytest.fixture
def boxes(monkeypatch):
    """Where the texts of a figure stand: (text, box in shares of the figure). Its pictures stay empty: that is fast."""
    found = []

    def look(figure, _, format, **__):
        if format == "png":
            figure.draw_without_rendering()
            for text in figure.findobj(lambda each: isinstance(each, Text) and each.get_visible() and each.get_text()):
                found.append((text.get_text(), text.get_window_extent().transformed(figure.transFigure.inverted())))

    monkeypatch.setattr(Figure, "savefig", look)
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", NAMES)
def test_every_figure_names_the_miniature_and_covers_and_cuts_no_text(tmp_path, boxes, name, language):
    title = records.read_json(draw(name, results(), tmp_path / name, language)[3])["title"]
    assert {"en": "miniature", "zh": "微缩实验"}[language] in title and title in [text for text, _ in boxes]
    for n, (text, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1 and box.y1 <= 1, f"cut: {text}"
        for other, there in boxes[:n]:
            wide, high = min(box.x1, there.x1) - max(box.x0, there.x0), min(box.y1, there.y1) - max(box.y0, there.y0)
            assert wide < 0.002 or high < 0.002, f"{text} covers {other}"


def test_the_json_has_the_numbers_that_are_drawn(tmp_path, boxes):
    given = results()
    data = {name: records.read_json(draw(name, given, tmp_path / name, "en")[3]) for name in NAMES}
    assert {row["remedy"] for row in data["bars"]["rows"]} == {*study.REMEDIES, "blind", "perfect"}
    assert {row["remedy"] for row in data["controls"]["rows"]} == {"none", *study.CONTROLS}
    assert all(row in given["rows"] for name in ("bars", "controls") for row in data[name]["rows"])
    assert {row["metric"] for row in data["bars"]["rows"]} == set(METRICS) == set(figures.METRICS)
    assert data["curve"]["rows"] == [row for row in given["curve"] if row["metric"] != "exact_sequence"]
    assert data["strip"]["seed"] == SEED and data["strip"]["rows"][1]["shown"] == [0, 10, 21, 31, 41, 51, 62, 72]
    assert data["saliency"]["rows"] == given["saliency"]


@pytest.mark.parametrize("name", ["curve", "strip"])
def test_four_files_are_written_and_the_same_rows_give_the_same_bytes(tmp_path, name):
    first, second = (draw(name, results(), tmp_path / folder / name, "en") for folder in ("one", "two"))
    assert [path.suffix for path in first] == [".png", ".pdf", ".svg", ".json"]
    assert min(path.stat().st_size for path in first) > 500
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("name", NAMES)
def test_without_rows_there_is_an_error_that_says_what_to_run(tmp_path, name):
    empty = results() | {"rows": [], "curve": [], "strip": {"seed": SEED, "policy": "fixed", "rows": []}}
    with pytest.raises(ValueError, match="run notebook 10"):
        draw(name, empty | {"saliency": []}, tmp_path / name, "en")


def test_pictures_are_all_or_the_first_the_last_and_evenly_between():
    every = list(np.arange(73))
    assert figures.shown(every[:1]) == [0] and figures.shown(every[:8]) == list(range(8))
    for count in range(9, 74):
        chosen = figures.shown(every[:count])
        gaps = {after - before for before, after in zip(chosen, chosen[1:], strict=False)}
        assert len(chosen) == 8 and chosen[0] == 0 and chosen[-1] == count - 1 and max(gaps) - min(gaps) <= 1


def test_pictures_in_which_nothing_changed_are_not_drawn_but_for_the_last():
    assert figures.shown(list(np.array([5, 5, 6, 6, 7, 7, 7]))) == [0, 2, 4, 6]


def test_frames_replay_a_rollout_to_its_end():
    actions = world.demonstration(SEED).actions.tolist()
    pictures = figures.frames(SEED, [*actions, -1], tile=8)
    assert len(pictures) == len(actions) + 1 and pictures[0].shape == (48, 48, 3)
    env, _ = world.scene(SEED)
    assert (pictures[0] == env.get_frame(tile_size=8)).all()
    rewards = [env.step(action)[1] for action in actions]
    assert rewards[-1] > 0 and (pictures[-1] == env.get_frame(tile_size=8)).all()
    assert not np.array_equal(pictures[0], pictures[-1])


def test_every_condition_remedy_metric_and_action_has_its_word_in_both_languages():
    words = yaml.safe_load((paths.PACKAGE / "embodied" / "labels.yaml").read_text(encoding="utf-8"))
    assert all(set(entry) == {"en", "zh"} for entry in words.values())
    wanted = {f"at {each}" for each in CONDITIONS} | {f"metric {each}" for each in METRICS}
    wanted |= {f"with {each}" for each in [*study.REMEDIES, *study.CONTROLS]}
    assert wanted == {name for name in words if name.split()[0] in ("at", "metric", "with")}
    assert all(len(text.split(", ")) == len(world.ACTIONS) for text in words["actions"].values())
    with pytest.raises(ValueError, match="language"):
        figures.words_of("fr", "miniature")
