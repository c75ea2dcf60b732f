"""Notebook 10's bank of wordings: its size, what of it is known, and that a sentence never means two things."""

import itertools
import random

import pytest
import yaml

from bpo_utils import paths
from bpo_utils.embodied import study, wordings, world
from bpo_utils.embodied.wordings import CONDITIONS, TASKS, THINGS, Task

TOLD = yaml.safe_load((paths.PACKAGE / "embodied" / "wordings.yaml").read_text(encoding="utf-8"))
FRAMES, SYNONYMS = TOLD["frames"], TOLD["synonyms"]
CONTENT = {*SYNONYMS, *itertools.chain(*SYNONYMS.values())}
EVERY = ("canonical", "known", "unseen")
TEST = [world.Episode(world.FIRST_SEED["test"] + n, None, None) for n in range(200)]
SEEDS = (1, 2, 3)


def frame_of(text):
    """The frame of a sentence: what is left if the words for things are taken out."""
    return " ".join("_" if word in CONTENT else word for word in text.split())


def frames_of(texts):
    return {frame_of(text) for text in texts}


def words_of(texts):
    return {word for text in texts for word in text.split()} & CONTENT


# what is written down


def test_there_are_sixteen_wordings_of_each_skill_beside_babyais_own():
    assert set(FRAMES) == {task.skill for task in TASKS}
    for skill, frames in FRAMES.items():
        assert len(frames) == len(set(frames)) >= 17
        for frame in frames:
            named = [part for part in frame.split() if "{" in part]
            assert sorted(named) == (["{a}", "{b}"] if skill == "put" else ["{a}"])
            assert frame == " ".join(frame.lower().split())
    assert len({frame.format(a="_ _", b="_ _") for frames in FRAMES.values() for frame in frames}) == 51


def test_there_are_four_synonyms_of_every_word_for_a_thing_and_each_of_one_word_only():
    assert set(SYNONYMS) == set(itertools.chain(*THINGS))
    assert all(len(words) >= 4 for words in SYNONYMS.values())
    written = [*SYNONYMS, *itertools.chain(*SYNONYMS.values())]
    assert len(written) == len(set(written)) and all(word.isalpha() and word.islower() for word in written)


def test_frames_have_no_word_for_a_thing():
    assert not {word for frames in FRAMES.values() for frame in frames for word in frame.split()} & CONTENT


def test_no_sentence_means_two_tasks():
    of = wordings.bank(1).meanings(EVERY, EVERY)
    one, two = [17 * 25 * 8, 17 * 25 * 25 * 12]  # go and pick, four things each; put, twelve pairs of things
    assert len(of) == one + two  # two tasks of one sentence would share an entry
    assert of["fetch the lemon orb"] == Task("pick", 3)
    assert of["beside the navy opener is where the crimson crate goes"] == Task("put", 0, 2)
    assert set(of.values()) == set(TASKS)


# halves


def test_every_seed_knows_a_half_of_its_own():
    seen = set()
    for seed in range(12):
        of = wordings.bank(seed)
        for parts, first, whole in ((of.frames, None, FRAMES), (of.words, "name", SYNONYMS)):
            for name, every in whole.items():
                canonical, known, unseen = (parts[part][name] for part in EVERY)
                assert canonical == [name if first else every[0]]
                assert sorted(known + unseen) == sorted(every if first else every[1:])
                assert not {*known} & {*unseen} and not {*canonical} & {*known, *unseen}
                assert len(known) == len(unseen) == (2 if first else 8)
        seen.add(str(of))
        assert of == wordings.bank(seed)
    assert len(seen) == 12


def test_the_bank_of_a_seed_stays_as_it_is():
    of = wordings.bank(1)
    assert of.frames["known"]["put"] == [
        "leave the {a} alongside the {b}",
        "the {b} should get the {a} as its neighbour",
        "have the {a} touch the {b}",
        "i want the {a} to stand next to the {b}",
        "bring the {a} to the {b} and drop it there",
        "could you carry the {a} over to the {b}",
        "next to the {b} put the {a}",
        "take the {a} and put it near the {b}",
    ]
    assert of.words["known"] == {
        "red": ["ruby", "vermilion"],
        "green": ["lime", "jade"],
        "blue": ["sapphire", "cobalt"],
        "yellow": ["amber", "golden"],
        "ball": ["orb", "globe"],
        "box": ["crate", "case"],
        "key": ["latchkey", "passkey"],
    }
    said = of.say(Task("put", 2, 0), ["unseen"], ["known"], random.Random(5))
    assert said == "set the cobalt passkey down by the ruby case"


# what is said


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_never_seen_is_in_nothing_that_a_remedy_may_use(seed):
    of = wordings.bank(seed)
    every = of.meanings(EVERY, EVERY)
    usable = [row.prompt for row in wordings.pairs(of, 400, seed)] + [wordings.canonical(task) for task in TASKS]
    usable += of.meanings()
    for condition, (frame, word) in CONDITIONS.items():
        said = study.said(seed, condition, TEST)
        if frame == "unseen":
            assert len(frames_of(said)) >= 20 and not frames_of(said) & frames_of(usable)
        else:
            assert len(frames_of(said)) >= (20 if frame == "known" else 3) and frames_of(said) <= frames_of(usable)
        if word == "unseen":
            assert len(words_of(said)) == 14 and not words_of(said) & words_of(usable)
        else:
            assert len(words_of(said)) == (14 if word == "known" else 7) and words_of(said) <= words_of(usable)
        assert [every[text] for text in said] == [each.task for each in TEST]


def test_the_conditions_are_canonical_and_every_half_of_frames_and_synonyms():
    assert list(CONDITIONS.items()) == [
        ("canonical", ("canonical", "canonical")),
        ("frames_known", ("known", "canonical")),
        ("frames_unseen", ("unseen", "canonical")),
        ("synonyms_known", ("canonical", "known")),
        ("synonyms_unseen", ("canonical", "unseen")),
        ("both_known", ("known", "known")),
        ("both_mixed", ("unseen", "known")),
        ("both_unseen", ("unseen", "unseen")),
    ]
    assert study.said(1, "canonical", TEST) == [wordings.canonical(each.task) for each in TEST]
    assert study.said(1, "both_known", TEST) == study.said(1, "both_known", TEST)
    assert study.said(1, "both_known", TEST) != study.said(2, "both_known", TEST)
    assert study.said(1, "both_known", TEST[:9]) == study.said(1, "both_known", TEST)[:9]


# pairs


@pytest.mark.parametrize("seed", SEEDS)
def test_embodied_pairs_are_different_sentences_of_the_known_half_with_their_canonical_ones(seed):
    of = wordings.bank(seed)
    known = of.meanings()
    for count in (200, 400):
        rows = wordings.pairs(of, count, seed)
        assert len({row.prompt for row in rows}) == len({row.id for row in rows}) == count
        assert all(row.optimized_prompt == wordings.canonical(known[row.prompt]) for row in rows)
        assert {row.optimized_prompt for row in rows} == {wordings.canonical(task) for task in TASKS}
        assert rows == wordings.pairs(of, count, seed)
    assert wordings.pairs(of, 25, seed) == wordings.pairs(of, 400, seed)[:25]
    assert wordings.pairs(of, 25, seed) != wordings.pairs(of, 25, seed + 1)


def test_more_pairs_than_the_known_half_can_say_are_an_error():
    of = wordings.bank(1)
    assert len(of.meanings()) == 9 * 9 * 8 + 9 * 9 * 9 * 12
    with pytest.raises(ValueError, match="9397 embodied pairs are asked for, but the known wordings can say 9396"):
        wordings.pairs(of, 9397, 1)
