"""Notebook 10's experiment, tiny: what is told, what is loaded and what is done again, and the rows that come of it."""

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from bpo_utils import paths, profile, records, rewrite, rewriters, workers
from bpo_utils.embodied import measure, policy, remedies, study, wordings, world
from bpo_utils.embodied.study import CONTROLS, KINDS, REMEDIES, Seed
from bpo_utils.embodied.wordings import CONDITIONS, TASKS, canonical
from bpo_utils.further import trials
from bpo_utils.rewrite import Rewritten

SMOKE = profile.load("smoke")
QUICK = {"width": 8, "layers": 1, "heads": 1, "feed_forward": 8, "steps": 2, "batch": 4, "learning_rate": 2e-3}
TINY = {"demonstrations": 20, "validation": 1, "test": 20, "policy": QUICK, "wordings": 1}
TINY = SMOKE.embodying.model_dump() | TINY
POOL = {canonical(task): [f"{canonical(task)} now", "do it"] for task in TASKS}
MEANT = wordings.bank(1).meanings()  # what a perfect reader of the known half would know


def run(**changes):
    return SMOKE.model_copy(update={"embodying": profile.Embodying.model_validate(TINY | changes)})


def reader(text):
    """A canonicaliser that knows what it may know, and leaves the rest as it is."""
    return canonical(MEANT[text]) if text in MEANT else text


def rewritten(texts, make=reader):
    return [Rewritten(text, make(text)) for text in texts]


@functools.cache
def first_view(seed):
    return world.scene(seed)[1]


@pytest.fixture
def here(run_folder, monkeypatch):
    """(how it reads, seed) of each policy that is trained, in this process; a rollout is its first step only."""
    trained, real = [], policy.train

    def train(episodes, said, settings, seed, reads="words"):
        trained.append((reads, seed))
        return real(episodes, said, settings, seed, reads)

    def do(jobs, at_once, threads):
        assert threads == 1 and at_once >= 1
        for job in jobs:
            for folder in job.arguments[1:]:
                study.do(Path(folder))

    def rollouts(act, wanted):
        chosen = act([text for _, text in wanted], np.stack([first_view(seed) for seed, _ in wanted]))
        return [[action] if action == 2 else [action, -1] for action in chosen.tolist()]

    monkeypatch.setattr(world, "rollouts", rollouts)
    monkeypatch.setattr(policy, "train", train)
    monkeypatch.setattr(workers, "run", do)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield trained
    torch.set_num_threads(threads)


def seed_of(number=1, sizes=(0, 10)):
    one = trials.Trial("joint", number, (), SMOKE.training, SMOKE.rewriting, Path("nowhere"), False)
    curve = {n: dataclasses.replace(one, key=f"pairs{n}") if n else None for n in sizes}
    return Seed(number, wordings.bank(number), one, curve, one)


@pytest.fixture
def told(here, monkeypatch):
    """{seed: what a policy is told}, with rewriters that read the known half, but for notebook 03's own."""
    records.write_json(paths.stage_dir(run().name, "03_training") / "model" / "config.json", {})
    monkeypatch.setattr(trials, "rewritten", lambda one, texts: rewritten(texts))
    monkeypatch.setattr(rewriters, "load", lambda settings, folder: (settings.mode, folder))
    monkeypatch.setattr(
        rewrite, "through", lambda model, texts, settings: rewritten(texts, lambda text: f"please {text}")
    )
    return {1: study.told(run(), seed_of(), test_episodes(run()))}


def stage():
    return paths.stage_dir("smoke", "10_embodied")


def test_episodes(settings):
    return study.episodes(settings.embodying, stage())["test"]


test_episodes.__test__ = False


def jobs_of(settings, told, pool=POOL):
    return [job for seed, one in told.items() for job in study.prepare(settings, seed, pool, one)]


def quiet(text):
    pass


# what is told


def test_the_three_sets_are_kept_beside_the_policies(here):
    sets = study.episodes(run().embodying, stage())
    assert {name: len(each) for name, each in sets.items()} == {"train": 20, "validation": 1, "test": 20}
    kept = sorted((stage() / "demonstrations").iterdir())
    assert [path.name for path in kept] == ["test.npz", "train.npz", "validation.npz"]
    before = [path.read_bytes() for path in kept]
    study.episodes(run().embodying, stage())
    assert [path.read_bytes() for path in kept] == before


def test_every_translator_turns_what_is_said_in_every_condition(told):
    test, one = test_episodes(run()), told[1]
    names = ("as_said", "linear", "joint", "pairs0", "pairs10", "perfect")
    assert set(one) == set(itertools.product(CONDITIONS, names))
    right = [canonical(each.task) for each in test]
    for condition in CONDITIONS:
        said = study.said(1, condition, test)
        assert one[condition, "as_said"] == said and one[condition, "perfect"] == right
        assert one[condition, "joint"] == one[condition, "pairs10"] == [reader(text) for text in said]
        assert one[condition, "pairs0"] == [f"please {text}" for text in said]
        assert set(one[condition, "linear"]) <= {canonical(task) for task in TASKS}
    assert one["both_known", "joint"] == right != one["both_unseen", "joint"]


def test_rewriters_are_trained_per_seed_and_rewrite_all_that_is_said(run_folder, monkeypatch):
    asked = []

    def make_all(wanted, texts, at_once):
        asked.append(([one.key for one in wanted], set(texts), at_once))
        return [{"trial": one.key} for one in wanted]

    monkeypatch.setattr(trials, "make_all", make_all)
    smoke = run_folder / "smoke"
    records.write_rows(smoke / "02_pairs" / "pairs.jsonl", [records.Pair(str(n), "a", "b", "") for n in range(9)])
    records.write_json(smoke / "03_training" / "model" / "config.json", {})
    records.write_bytes(smoke / "03_training" / "model" / "model.safetensors", b"weights")
    settings = run(seeds=[1, 2])
    test = test_episodes(settings)
    made, rows = study.train_rewriters(settings, test)
    assert [each.seed for each in made] == [1, 2] and [each.bank for each in made] == [
        wordings.bank(1),
        wordings.bank(2),
    ]
    for each, (keys, texts, at_once) in zip(made, asked[:2], strict=True):
        assert keys == [each.joint.key, each.curve[10].key] and each.curve[0] is None and at_once == 2
        assert texts == {text for condition in CONDITIONS for text in study.said(each.seed, condition, test)}
    assert asked[2] == ([each.paraphraser.key for each in made], set(), 2) and len(asked) == 3
    assert [row["trial"] for row in rows] == [key for keys, _, _ in asked for key in keys]


def test_paraphrases_are_drawn_once_for_a_model_and_again_for_another(run_folder, monkeypatch):
    asked = []

    def paraphrases(one, texts, samples):
        asked.append((list(texts), samples))
        return POOL

    monkeypatch.setattr(remedies, "paraphrases", paraphrases)
    one = dataclasses.replace(seed_of().joint, folder=stage() / "paraphraser")
    made = dataclasses.replace(seed_of(), paraphraser=one)
    records.write_json(one.folder / "model" / "config.json", {})
    records.write_bytes(one.folder / "model" / "model.safetensors", b"weights")
    assert study.paraphrased(run(), made) == study.paraphrased(run(), made) == POOL
    assert asked == [([canonical(task) for task in TASKS], SMOKE.embodying.samples)]
    records.write_bytes(one.folder / "model" / "model.safetensors", b"other weights")
    study.paraphrased(run(), made)
    study.paraphrased(run(samples=5), made)
    usual = SMOKE.embodying.samples
    assert [samples for _, samples in asked] == [usual, usual, 5] and usual != 5


# policies


def test_finished_policies_are_loaded_and_changed_ones_trained_or_tested_again(here, told):
    jobs = jobs_of(run(), told)
    rows = study.train_policies(run(), jobs, quiet)
    assert [(row["policy"], row["seed"]) for row in rows] == [(kind, 1) for kind in KINDS]
    assert all(row["seconds"] >= 0 for row in rows) and len(here) == len(KINDS)
    assert sorted(reads for reads, _ in here) == ["nothing", "sentence", *["words"] * 5]
    here.clear()
    before = [study.outcomes(job) for job in jobs]
    said = []
    assert study.train_policies(run(), jobs_of(run(), told), said.append) == rows and here == []
    assert said == ["7 policies: 7 loaded, 0 to train or to test, 0 at a time"]

    pool = POOL | {"go to the red box": ["other"]}
    study.train_policies(run(), jobs_of(run(), told, pool), quiet)
    assert len(here) == 2  # augmented and wrong
    here.clear()
    more = {1: told[1] | {("both_unseen", "joint"): ["something else"] * 20}}
    study.train_policies(run(), jobs_of(run(), more, pool), quiet)
    assert here == []  # fixed and augmented were tested again with the weights that they had
    assert (0, "something else") in study.outcomes(jobs[0]) and study.outcomes(jobs[-1]) == before[-1]
    study.train_policies(run(), jobs_of(run(policy=QUICK | {"steps": 3}), told, pool), quiet)
    assert len(here) == 7


def test_a_policy_that_was_not_finished_is_trained_again(here, told):
    jobs = jobs_of(run(), told)[:2]
    study.train_policies(run(), jobs, quiet)
    here.clear()
    (jobs[0] / "facts.json").unlink()  # ended while it trained
    (jobs[1] / "outcomes.json").unlink()  # ended while it was tested
    study.train_policies(run(), jobs, quiet)
    assert here == [("words", 1)] and all((job / "outcomes.json").is_file() for job in jobs)


def test_a_child_that_fails_is_an_error_and_what_was_finished_is_kept(run_folder, told, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("BPO_RUNS_DIR", str(run_folder))
    jobs = jobs_of(run(at_once=1), told)
    good, broken = jobs[0], jobs[-1]
    asked = records.read_json(broken / "job.json")
    records.write_json(broken / "job.json", asked | {"facts": asked["facts"] | {"kind": "nosuch"}})
    asked = records.read_json(good / "job.json")
    records.write_json(good / "job.json", asked | {"wanted": asked["wanted"][:5]})
    with pytest.raises(ChildProcessError, match=r"(?s)the policies ended with code 1.*no policy is called 'nosuch'"):
        study.train_policies(run(at_once=1), [good, broken], quiet)
    apart = study.outcomes(good)
    assert not (broken / "facts.json").exists() and study._is_done(good)
    weights = (good / "model.safetensors").read_bytes()
    (good / "facts.json").unlink()
    torch.set_num_threads(1)
    study.do(good)  # the same in this process
    assert study.outcomes(good) == apart and (good / "model.safetensors").read_bytes() == weights


# results


def test_there_is_a_row_for_every_condition_remedy_and_metric(here, told):
    settings = run(seeds=[1, 2])
    told = told | {2: study.told(settings, seed_of(2), test_episodes(settings))}
    jobs = jobs_of(settings, told)
    study.train_policies(settings, jobs, quiet)
    found = study.results(settings, jobs, told)
    assert set(found) == {"rows", "curve", "gains"}
    remedies_and_controls = [*REMEDIES, *CONTROLS]
    assert remedies_and_controls == ["none", "augmentation", "module", "both", "blind", "shuffled", "wrong_paraphrases",
        "random_edits", "linear", "perfect", "sentence_identity"]  # fmt: skip
    cells = {(row["condition"], row["remedy"], row["metric"]): row for row in found["rows"]}
    assert list(cells) == list(itertools.product(CONDITIONS, remedies_and_controls, measure.METRICS))
    keys = {"condition", "remedy", "metric", "mean", "ci_low", "ci_high", "seeds", "episodes"}
    for row in found["rows"]:
        assert keys <= set(row) and (row["seeds"], row["episodes"]) == (2, 20)
        assert 0 <= row["ci_low"] <= row["mean"] <= row["ci_high"] <= 1
    gains = {(row["condition"], row["remedy"]): row for row in found["gains"]}
    assert list(gains) == list(itertools.product(CONDITIONS, remedies_and_controls[1:]))
    assert all(keys <= set(row) and row["metric"] == "success" for row in found["gains"])
    curve = [(row["condition"], row["pairs"], row["metric"]) for row in found["curve"]]
    assert curve == list(itertools.product(CONDITIONS, (0, 10), measure.METRICS))
    for condition, metric in itertools.product(CONDITIONS, measure.METRICS):
        same = {"condition": "", "remedy": ""}
        assert cells[condition, "perfect", metric] | same == cells["canonical", "none", metric] | same
        assert cells[condition, "blind", metric] | same == cells["canonical", "blind", metric] | same
        for remedy in remedies_and_controls[1:]:
            with_it, without = (cells[condition, each, "success"]["mean"] for each in (remedy, "none"))
            assert gains[condition, remedy]["mean"] == pytest.approx(with_it - without)
            gap = cells["canonical", "none", "success"]["mean"] - without
            closed = gains[condition, remedy]["closed"]
            assert (closed is None) == (gap <= 0) and (gap <= 0 or closed == pytest.approx((with_it - without) / gap))


def _done(number, text):
    """Whether the policy of a kind does what it is told, in a made-up way."""
    return len(text) % (number + 2) == 0


def test_results_are_those_of_the_policy_and_the_instruction_of_each_remedy(here, told):
    settings = run()
    jobs = jobs_of(settings, told)
    for number, job in enumerate(jobs):  # instead of tests: the number of the kind, and what was told
        records.write_json(job / "facts.json", {"facts": {}, "told": {}})
        wanted = records.read_json(job / "job.json")["wanted"]
        rows = [[n, text, 100, number * 10 + len(text) % 7, _done(number, text)] for n, text in wanted]
        records.write_json(job / "outcomes.json", {"facts": {}, "rows": rows})
    found = study.results(settings, jobs, told)
    of = {
        "none": ("fixed", "as_said"), "augmentation": ("augmented", "as_said"), "module": ("fixed", "joint"),
        "both": ("augmented", "joint"), "blind": ("blind", "as_said"), "shuffled": ("shuffled", "as_said"),
        "wrong_paraphrases": ("wrong", "as_said"), "random_edits": ("edited", "as_said"), "linear": ("fixed", "linear"),
        "perfect": ("fixed", "perfect"), "sentence_identity": ("sentence", "as_said"),
    }  # fmt: skip
    for row in found["gains"]:
        kind, by = of[row["remedy"]]
        done = [_done(KINDS.index(kind), text) for text in told[1][row["condition"], by]]
        without = [_done(0, text) for text in told[1][row["condition"], "as_said"]]
        assert row["mean"] == pytest.approx((sum(done) - sum(without)) / 20)
    found = {name: [row for row in found[name] if row["metric"] == "action_accuracy"] for name in ("rows", "curve")}
    assert len(found["rows"]) == 8 * 11 and len(found["curve"]) == 8 * 2
    for row in found["rows"]:
        kind, by = of[row["remedy"]]
        right = sum(KINDS.index(kind) * 10 + len(text) % 7 for text in told[1][row["condition"], by])
        assert row["mean"] == pytest.approx(right / 2000)
    for row in found["curve"]:
        texts = told[1][row["condition"], f"pairs{row['pairs']}"]
        assert row["mean"] == pytest.approx(sum(len(text) % 7 for text in texts) / 2000)
