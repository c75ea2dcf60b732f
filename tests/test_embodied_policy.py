"""Notebook 10's policy: what it reads of an instruction, what it learns, what words weigh; the three metrics."""

import functools
import json
import random

import numpy as np
import pytest
import torch

from bpo_utils.embodied import measure, policy, world
from bpo_utils.embodied.measure import Outcome
from bpo_utils.embodied.wordings import canonical
from bpo_utils.sections_further import Policy as Settings

TINY = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 16, "steps": 3, "batch": 8, "learning_rate": 5e-3}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def episodes(tasks=(0, 3), count=20):
    return [world.demonstration(task + 20 * n) for n in range(count) for task in tasks]


def trained(seed=1, reads="words", said=None, **changes):
    told = said or [[canonical(each.task)] for each in episodes()]
    return policy.train(episodes(), told, Settings(**TINY | changes), seed, reads)


@functools.cache
def able():
    """A policy that has learned something."""
    return trained(steps=100, batch=16)


def scores(of, text, each=None):
    views = torch.as_tensor((each or episodes()[0]).views)
    with torch.inference_mode():
        return policy.logits(of.network, of.encode([text]).expand(len(views), -1), views)


def chance(of, text, each):
    """How probable the expert's actions are, in the mean over the steps."""
    found = scores(of, text, each).softmax(1)
    return float(found[torch.arange(len(each.actions)), torch.as_tensor(each.actions)].mean())


def same(first, second):
    one, other = first.network.state_dict(), second.network.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def share_right(of, each, said):
    found = measure.outcomes(of, each, list(enumerate(said)))
    return sum(one.right for one in found) / sum(one.steps for one in found)


# training


def test_a_tiny_policy_learns_two_tasks_from_their_sentences():
    each = episodes((1, 14))
    said = [canonical(one.task) for one in each]
    settings = Settings(**TINY | {"width": 32, "feed_forward": 32, "steps": 600, "batch": 32})
    of = policy.train(each, [[text] for text in said], settings, 3)
    other = dict(zip(said, said[1:], strict=False))
    assert share_right(of, each, said) > 0.95
    assert share_right(of, each, [other[text] for text in said]) < 0.8  # it goes by the sentence


def test_training_makes_the_experts_actions_more_probable():
    few, more = trained(steps=1), trained(steps=40)
    for each in episodes()[:2]:
        assert chance(more, canonical(each.task), each) > chance(few, canonical(each.task), each) + 0.1


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    assert same(trained(), trained())
    assert not same(trained(), trained(seed=2))
    assert not same(trained(), trained(steps=4))
    first, second = (trained(seed, learning_rate=1e-9).network["action"].weight for seed in (1, 2))
    assert (first - second).abs().max() > 0.01  # before a step, too


def test_every_episode_needs_a_sentence():
    for said in ([["go to the red box"]], [["go"]] * 39 + [[]]):
        with pytest.raises(ValueError, match="40 episodes need at least one sentence each"):
            policy.train(episodes(), said, Settings(**TINY), 1)


def test_an_episode_is_told_each_of_its_sentences():
    two = trained(said=[["go to the red box", "walk over"], ["up", "away"]] * 20, steps=40)
    assert set(two.vocabulary) == {"go", "to", "the", "red", "box", "walk", "over", "up", "away"}
    torch.manual_seed(1)
    untouched = policy.build(Settings(**TINY), len(two.vocabulary) + 2)["words"].weight
    change = (two.network["words"].weight - untouched).abs().max(1).values
    assert all(change[number] > 0.01 for number in two.vocabulary.values())


# saved and loaded


def test_a_saved_policy_is_loaded_as_it_was_and_no_file_is_a_pickle(tmp_path):
    for reads in ("words", "sentence", "nothing"):
        made, folder = trained(reads=reads), tmp_path / reads
        policy.save(made, folder)
        again = policy.load(folder, Settings(**TINY))
        assert (again.vocabulary, again.reads) == (made.vocabulary, reads)
        assert torch.equal(scores(made, "go to the red box"), scores(again, "go to the red box"))
        assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "vocabulary.json"]
        raw = (folder / "model.safetensors").read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        assert set(header) - {"__metadata__"} == set(made.network.state_dict())
        assert json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))["reads"] == reads


def test_a_policy_that_is_not_there_or_of_another_shape_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vocabulary\.json is missing"):
        policy.load(tmp_path / "nothing", Settings(**TINY))
    policy.save(trained(), tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        policy.load(tmp_path, Settings(**TINY | {"width": 32}))


# what it reads


def test_a_word_that_the_training_did_not_have_is_unknown():
    of = trained()
    assert set(of.vocabulary) == {"go", "to", "the", "red", "box", "yellow", "ball"}
    assert sorted(of.vocabulary.values()) == list(range(2, 9))
    found = of.encode(["go to the crimson box", "go to the red box"])
    assert (found[0] != found[1]).tolist() == [False, False, False, True, False]
    assert found[0, 3] == policy.UNKNOWN and found[1, 3] == of.vocabulary["red"]
    assert torch.equal(scores(of, "go to the crimson box"), scores(of, "go to the zebra box"))
    assert not torch.equal(scores(of, "go to the crimson box"), scores(of, "go to the red box"))


def test_a_blind_policy_does_the_same_whatever_is_said():
    blind = trained(reads="nothing")
    assert blind.vocabulary == {} and blind.encode(["go to the red box", ""]).shape == (2, 0)
    for text in ("go to the yellow ball", "", "anything else " * 40):
        assert torch.equal(scores(blind, text), scores(blind, "go to the red box"))


def test_a_sentence_policy_knows_whole_sentences_only():
    of = trained(reads="sentence")
    assert of.vocabulary == {"go to the red box": 2, "go to the yellow ball": 3}
    assert of.encode(["go to the red box", "box red the to go", "go to the red ball"]).tolist() == [[2], [1], [1]]
    assert not torch.equal(scores(of, "go to the red box"), scores(of, "go to the yellow ball"))


def test_the_place_of_a_word_counts():
    assert not torch.allclose(scores(able(), "go to the red box"), scores(able(), "box red the to go"), atol=1e-3)


def test_padding_changes_nothing():
    of, view = able(), torch.as_tensor(episodes()[0].views[:1])
    words = of.encode(["go to the red box", "red " * 30, ""])
    assert words.shape == (3, 30) and words[2].tolist() == [policy.PAD] * 30
    with torch.inference_mode():
        together = policy.logits(of.network, words, view.expand(3, -1, -1, -1))
    for text, row in (("go to the red box", together[0]), ("", together[2])):
        assert torch.allclose(scores(of, text)[0], row, atol=1e-5)
    assert not torch.allclose(together[0], together[2], atol=1e-3)


def test_words_after_the_longest_instruction_are_not_read():
    of, long = trained(), " ".join(["red", "box"] * 16)
    assert of.encode([long + " yellow"]).shape == (1, policy.LONGEST) == (1, 32)
    assert torch.equal(scores(of, long + " yellow ball"), scores(of, long))
    assert not torch.equal(scores(of, long), scores(of, long.rsplit(" ", 1)[0]))
    assert len(policy.saliency(of, episodes()[0], long + " yellow")) == 32


def test_actions_are_the_most_probable_ones_however_many_are_asked_for():
    of = able()
    views = np.concatenate([each.views for each in episodes()] * 12)
    texts = [canonical(each.task) for each in episodes() for _ in each.actions] * 12
    assert len(texts) > 2048  # several batches
    alone = torch.cat([scores(of, canonical(each.task), each).argmax(1) for each in episodes()])
    assert of.act(texts, views).tolist() == alone.tolist() * 12


# what words weigh


def test_a_word_weighs_what_the_expert_action_loses_without_it():
    of, each = able(), episodes()[0]
    text = canonical(each.task)
    told = dict(policy.saliency(of, each, text))
    assert list(told) == text.split() and all(-1 <= weight <= 1 for weight in told.values())
    without_last = chance(of, text, each) - chance(of, text.rsplit(" ", 1)[0], each)  # no other word moves
    assert told["box"] == pytest.approx(without_last, abs=1e-5) and abs(without_last) > 1e-4
    words = of.encode([text])
    words[0, 3] = policy.PAD  # what is padding is not attended to either
    with torch.inference_mode():
        found = policy.logits(of.network, words.expand(len(each.actions), -1), torch.as_tensor(each.views)).softmax(1)
    kept = float(found[torch.arange(len(each.actions)), torch.as_tensor(each.actions)].mean())
    assert told["red"] == pytest.approx(chance(of, text, each) - kept, abs=1e-5)


def test_weights_are_told_for_what_a_policy_reads():
    each = episodes()[0]
    text = canonical(each.task)
    assert [word for word, _ in policy.saliency(trained(reads="sentence"), each, text)] == [text]
    assert policy.saliency(trained(reads="nothing"), each, text) == []
    told = "the red zebra box the"
    assert [word for word, _ in policy.saliency(trained(), each, told)] == told.split()


# metrics


class Expert:
    """Acts as the expert did in the episode whose number it is told, again and again."""

    def __init__(self):
        self.turn = {}

    def read(self, text):
        return [int(text)]

    def act(self, texts, views):
        return np.array([self._next(int(text)) for text in texts])

    def _next(self, n):
        self.turn[n] = self.turn.get(n, -1) + 1
        return episodes()[n].actions[self.turn[n] % len(episodes()[n].actions)]


class Constant:
    def read(self, text):
        return []

    def act(self, texts, views):
        return np.zeros(len(texts), int)


def test_the_expert_has_everything_right():
    found = measure.outcomes(Expert(), episodes(), [(n, str(n)) for n in (5, 0, 7)])
    steps = [len(episodes()[n].actions) for n in (5, 0, 7)]
    assert found == [Outcome(count, count, True) for count in steps]
    assert [row["mean"] for row in measure.rows({}, [found])] == [1, 1, 1]


def test_a_policy_of_one_action_has_the_share_of_that_action():
    found = measure.outcomes(Constant(), episodes(), [(n, "") for n in range(10)])
    assert [each.right for each in found] == [int((each.actions == 0).sum()) for each in episodes()[:10]]
    assert [each.steps for each in found] == [len(each.actions) for each in episodes()[:10]]
    rolled = world.rollouts(Constant().act, [(each.seed, "") for each in episodes()[:10]])
    assert [each.success for each in found] == [taken[-1] != -1 for taken in rolled]
    assert not all(each.success for each in found)
    assert measure.outcomes(Constant(), episodes(), []) == []


def test_what_reads_the_same_is_tried_once_and_told_for_each():
    class Deaf(Constant):
        tried = 0

        def act(self, texts, views):
            Deaf.tried += len(texts)
            return super().act(texts, views)

    said = measure.outcomes(Deaf(), episodes(), [(n, text) for text in ("a", "b") for n in range(3)])
    twice, Deaf.tried = Deaf.tried, 0
    assert said == measure.outcomes(Deaf(), episodes(), [(n, "a") for n in range(3)]) * 2 and Deaf.tried == twice > 0


def test_a_rate_of_all_or_nothing_has_an_interval_too():
    rows = measure.rows({}, [[Outcome(2, 2, False)] * 20])
    assert rows[2]["mean"] == 0 == rows[2]["ci_low"] and rows[2]["ci_high"] == pytest.approx(1 - 0.025 ** (1 / 20))
    assert rows[1]["mean"] == 1 == rows[1]["ci_high"] and rows[1]["ci_low"] == pytest.approx(0.025 ** (1 / 20))
    same = [Outcome(2, 2, False)] * 20
    assert measure.difference({}, [same], [same])["ci_high"] == 0


def test_no_word_teaches_what_unknown_means():
    assert policy.NO_WORD not in trained(said=[["go ~"]] * 40).vocabulary


def outcomes(count, seed=0):
    rng = random.Random(seed)
    sizes = [rng.randrange(2, 12) for _ in range(count)]
    return [Outcome(size, rng.randrange(size + 1), rng.random() < 0.5) for size in sizes]


def test_action_accuracy_is_over_steps_and_the_others_over_episodes():
    found = measure.rows({"remedy": "none"}, [[Outcome(4, 4, True), Outcome(10, 3, False)]])
    assert [(row["remedy"], row["metric"], row["seeds"], row["episodes"]) for row in found] == [
        ("none", metric, 1, 2) for metric in ("action_accuracy", "exact_sequence", "success")
    ]
    assert [row["mean"] for row in found] == pytest.approx([7 / 14, 0.5, 0.5])
    by_seed = [outcomes(50, 1), outcomes(50, 2)]
    by_seed[1] = [Outcome(a.steps, min(a.steps, b.right), b.success) for a, b in zip(*by_seed, strict=True)]
    every = [each for row in by_seed for each in row]
    accuracy, exact, success = (row["mean"] for row in measure.rows({}, by_seed))
    assert accuracy == pytest.approx(sum(each.right for each in every) / sum(each.steps for each in every), abs=1e-12)
    assert exact == pytest.approx(np.mean([each.right == each.steps for each in every]))
    assert success == pytest.approx(np.mean([each.success for each in every]))


def test_intervals_hold_the_mean_lie_in_the_possible_and_shrink_with_episodes_and_agreement():
    few, many = measure.rows({}, [outcomes(20)]), measure.rows({}, [outcomes(20) * 10])
    for a, b in zip(few, many, strict=True):
        assert 0 <= a["ci_low"] < b["ci_low"] < a["mean"] < b["ci_high"] < a["ci_high"] <= 1
        assert a["mean"] == pytest.approx(b["mean"]) and (a["episodes"], b["episodes"]) == (20, 200)
    right, wrong = Outcome(1, 1, True), Outcome(1, 0, False)
    apart, alike = (
        measure.rows({}, [[wrong] * n + [right] * (100 - n) for n in counts]) for counts in ((5, 50), (27, 28))
    )
    assert apart[2]["ci_high"] - apart[2]["ci_low"] > 2 * (alike[2]["ci_high"] - alike[2]["ci_low"])
    edge = measure.rows({}, [[Outcome(1, 1, True)] * 9 + [Outcome(1, 0, False)]])
    assert all(row["ci_high"] == 1 for row in edge)


def test_a_gain_is_paired_by_episode_and_seed():
    without = outcomes(40)
    failed = next(n for n, each in enumerate(without) if not each.success)
    better = [Outcome(each.steps, each.right, each.success or n == failed) for n, each in enumerate(without)]
    gain = measure.difference({"remedy": "module"}, [better], [without])
    assert (gain["remedy"], gain["metric"], gain["seeds"], gain["episodes"]) == ("module", "success", 1, 40)
    assert gain["mean"] == pytest.approx(1 / 40) and gain["ci_high"] - gain["ci_low"] < 0.12
    unpaired = measure.difference({}, [better[::-1]], [without])
    assert unpaired["mean"] == pytest.approx(1 / 40) and unpaired["ci_high"] - unpaired["ci_low"] > 0.3
    none = measure.difference({}, [without, without], [without, without])
    assert (none["mean"], none["ci_low"], none["ci_high"]) == (0, 0, 0)
    loss = measure.difference({}, [[Outcome(1, 0, False)] * 9], [[Outcome(1, 1, True)] * 8 + [Outcome(1, 0, False)]])
    assert loss["mean"] == pytest.approx(-8 / 9) and loss["ci_low"] == -1
    with pytest.raises(ValueError):
        measure.difference({}, [better], [without[:-1]])
