"""Notebook 10's remedies: what each kind of policy is told, what rewriters are trained on, and the control."""

import random
from collections import Counter

import pytest

from bpo_utils import profile, records, rewriters
from bpo_utils.embodied import remedies, wordings, world
from bpo_utils.embodied.wordings import TASKS, canonical
from bpo_utils.records import Pair, Reply

SMOKE = profile.load("smoke")
EPISODES = [world.Episode(seed, None, None) for seed in range(60)]
OWN = [canonical(each.task) for each in EPISODES]
POOL = {canonical(task): [f"{n} one way", f"{n} another", f"{n} third"] for n, task in enumerate(TASKS)}


def said(kind, pool=POOL, count=3, seed=1):
    return remedies.said(kind, EPISODES, pool, count, seed)


# what is said in training


def test_fixed_sentence_and_blind_policies_are_told_the_canonical_sentence_only():
    for kind in ("fixed", "sentence", "blind"):
        assert said(kind, {}) == [[text] for text in OWN]


def test_shuffled_sentences_are_those_of_other_episodes():
    found = said("shuffled", {})
    assert all(len(each) == 1 for each in found)
    told = [each[0] for each in found]
    assert Counter(told) == Counter(OWN) and sum(a == b for a, b in zip(told, OWN, strict=True)) < 12


def test_augmented_episodes_have_paraphrases_of_their_own_sentence():
    found = said("augmented")
    for text, each in zip(OWN, found, strict=True):
        assert each[0] == text and len(each) == 4 and set(each[1:]) <= set(POOL[text])
    every = {text for each in said("augmented", count=20) for text in each[1:]}
    assert every == {text for each in POOL.values() for text in each}


def test_wrong_paraphrases_are_never_of_the_own_sentence():
    found = said("wrong")
    for text, each in zip(OWN, found, strict=True):
        assert each[0] == text and len(each) == 4 and not set(each[1:]) & set(POOL[text])
    assert {text for each in found for text in each[1:]} <= {text for each in POOL.values() for text in each}
    assert len({text for each in found for text in each[1:]}) > 50  # of any other task


def test_edits_add_no_word():
    for text, each in zip(OWN, said("edited", {}), strict=True):
        assert each[0] == text and len(each) == 4
        assert all(Counter(more.split()) - Counter(text.split()) <= Counter({"~": 99}) for more in each[1:])
    text, rng = "put the red box next to the blue key", random.Random(1)
    many = [remedies.edited(text, rng) for _ in range(2000)]
    kept = [[word for word in each.split() if word != "~"] for each in many]
    assert all(not Counter(words) - Counter(text.split()) for words in kept) and all(many)
    lost = 1 - sum(map(len, kept)) / (9 * len(many))
    assert 0.25 < lost < 0.31  # 15 % are left out, and of the others 15 % made unknown
    assert any("~" in each for each in many) and any(words == text.split() for words in kept)
    assert any(sorted(words) == sorted(text.split()) and words != text.split() for words in kept)  # moved
    assert {remedies.edited("go", rng) for _ in range(200)} == {"go", "~", "go ~", "~ go", "~ ~"}


@pytest.mark.parametrize("kind", ["shuffled", "augmented", "wrong", "edited"])
def test_a_seed_decides_what_is_said(kind):
    assert said(kind) == said(kind) and said(kind) != said(kind, seed=2)


def test_a_sentence_without_paraphrases_and_an_unknown_kind_are_errors():
    for kind in ("augmented", "wrong"):
        for pool in (POOL | {OWN[3]: []}, {text: each for text, each in POOL.items() if text != OWN[3]}):
            with pytest.raises(ValueError, match="no paraphrase of 'go to the yellow ball'; raise embodying.samples"):
                said(kind, pool)
    with pytest.raises(ValueError, match="no policy is called 'agumented'"):
        said("agumented")


# the linear control


def test_the_linear_control_learns_its_pairs_and_reads_other_known_sentences():
    of = wordings.bank(1)
    rows = wordings.pairs(of, 200, 1)
    turn = remedies.linear(rows)
    assert all(turn(row.prompt) == row.optimized_prompt for row in rows)
    rng, others = random.Random(2), []
    while len(others) < 200:
        task = rng.choice(TASKS)
        others.append((of.say(task, ["known"], ["known"], rng), canonical(task)))
    right = sum(turn(text) == wanted for text, wanted in others)
    again = remedies.linear(rows)
    assert right > 90 and [turn(text) for text, _ in others] == [again(text) for text, _ in others]
    assert turn("words of no pair") in OWN and turn("") in OWN


# rewriters


@pytest.fixture
def trained(run_folder):
    """Folders of notebooks 02 and 03, as a trial needs them: pairs, and a model's files."""
    own = [Pair(f"row-{n}", f"prompt {n}", f"optimized prompt {n}", "made") for n in range(30)]
    records.write_rows(run_folder / "smoke" / "02_pairs" / "pairs.jsonl", own)
    folder = run_folder / "smoke" / "03_training" / "model"
    records.write_json(folder / "config.json", {})
    records.write_bytes(folder / "model.safetensors", b"first weights")
    return own, folder


def test_the_module_is_trained_on_notebook_03s_pairs_and_the_embodied_ones(trained, run_folder):
    own, _ = trained
    of = wordings.bank(1)
    one = remedies.joint(SMOKE, of, 1)
    assert list(one.pairs) == [*own, *wordings.pairs(of, SMOKE.embodying.pairs, 1)]
    assert one.training == SMOKE.training.model_copy(update={"seed": 1, "push_to": ""})
    assert (one.key, one.folder) == ("joint-s1", run_folder / "smoke" / "10_embodied" / "rewriters" / "joint-s1")
    assert (one.rewriting.mode, one.rewriting.seed, one.rewriting.model, one.on_gpu) == ("greedy", 1, "", False)
    embodying = SMOKE.embodying.model_copy(update={"epochs": 7, "batch": 2})
    other = SMOKE.model_copy(update={"embodying": embodying})
    assert remedies.joint(other, of, 1).training == one.training  # the section changes the curve's training only
    onwards = remedies.continued(other, of, 5, 1).training
    assert (onwards.epochs, onwards.global_batch, onwards.micro_batch) == (7, 2, min(2, SMOKE.training.micro_batch))
    assert one.facts["settings"] != remedies.joint(SMOKE, of, 2).facts["settings"]


def test_the_curve_goes_on_from_notebook_03s_rewriter_with_some_of_its_pairs(trained):
    own, folder = trained
    of = wordings.bank(1)
    ten, five = remedies.continued(SMOKE, of, 10, 1), remedies.continued(SMOKE, of, 5, 1)
    rehearsed, embodied = ten.pairs[: SMOKE.embodying.rehearsal], ten.pairs[SMOKE.embodying.rehearsal :]
    assert set(rehearsed) < set(own) and len(set(rehearsed)) == 8
    assert list(embodied) == wordings.pairs(of, 10, 1) and five.pairs == ten.pairs[:13]
    settings = ten.training
    assert (settings.base, settings.epochs, settings.global_batch) == (str(folder), 1, 8)
    assert settings.micro_batch <= 8 and ten.key.startswith("pairs10-") and ten.key.endswith("-s1")
    assert len({each.folder for each in (ten, five, remedies.continued(SMOKE, of, 10, 2))}) == 3


def test_the_augmenter_learns_the_other_way_round(trained):
    of = wordings.bank(1)
    one = remedies.paraphraser(SMOKE, of, 1)
    rows = wordings.pairs(of, SMOKE.embodying.paraphrases, 1)
    assert [(pair.prompt, pair.optimized_prompt) for pair in one.pairs] == [
        (row.optimized_prompt, row.prompt) for row in rows
    ]
    assert {pair.prompt for pair in one.pairs} <= set(OWN) and one.training.base == str(trained[1])


def test_a_rewriter_that_goes_on_is_another_one_if_notebook_03s_weights_are_others(trained):
    of = wordings.bank(1)

    def made():
        return [remedies.continued(SMOKE, of, 10, 1), remedies.paraphraser(SMOKE, of, 1), remedies.joint(SMOKE, of, 1)]

    before, again = made(), made()
    records.write_bytes(trained[1] / "model.safetensors", b"other weights")
    after = made()
    assert [one.key for one in before] == [one.key for one in again]
    assert [a.key == b.key for a, b in zip(before, after, strict=True)] == [False, False, True]
    assert all(one.folder.name == one.key for one in before + after)


def test_what_notebooks_02_and_03_have_not_made_is_an_error(trained):
    of = wordings.bank(1)
    (trained[1] / "config.json").unlink()
    (trained[1] / "model.safetensors").unlink()
    trained[1].rmdir()
    with pytest.raises(FileNotFoundError, match="03_training"):
        remedies.paraphraser(SMOKE, of, 1)
    (trained[1].parent.parent / "02_pairs" / "pairs.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"pairs\.jsonl is missing; run the notebook that writes it"):
        remedies.joint(SMOKE, of, 1)


def test_paraphrases_are_the_different_whole_ones_of_all_samples(trained, monkeypatch):
    one = remedies.paraphraser(SMOKE, wordings.bank(1), 3)
    asked = []

    said = {"go": ["walk", "far too long", " walk ", "go", "approach"], "up": ["up"] * 5}

    def of(network, tokenizer, settings):
        asked.append((network, settings.mode, settings.temperature, settings.seed))
        draw = settings.seed - 3000
        finish = "length" if draw == 1 else "stop"  # cut off
        return rewriters.Rewriter(lambda texts, sample: [Reply(said[text][draw], finish=finish) for text in texts], len)

    monkeypatch.setattr(rewriters, "network_of", lambda model, on_gpu: (model, None))
    monkeypatch.setattr(rewriters, "of", of)
    assert remedies.paraphrases(one, ["go", "up"], 5) == {"go": ["approach", "walk"], "up": []}
    assert asked == [(str(one.folder / "model"), "stable", 0.7, 3000 + n) for n in range(5)]
    remedies.paraphrases(one, ["go"], 1, "another/model")
    assert asked[-1][0] == "another/model"
