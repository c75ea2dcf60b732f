"""Notebook 07's parts: what trials differ in, when one is trained again, its processes, where rewriting saturates."""

import dataclasses
import itertools

import pytest

from bpo_utils import chat, profile, records, seeds, workers
from bpo_utils.further import iterate, trials, variants
from bpo_utils.rewrite import Rewritten

SMOKE = profile.load("smoke")
WORDS = ("photosynthesis", "lightning", "libraries", "yeast", "sleep", "tides", "bees", "glass")
TEXTS = [f"what is {word}" for word in WORDS[:3]]


def pairs(count=8):
    made = itertools.islice(itertools.product(WORDS, ("explain", "why is there", "tell me about")), count)
    return [
        records.Pair(f"row-{n}", f"{how} {word}", f"Please say what {word} means, with an example.", "made")
        for n, (word, how) in enumerate(made)
    ]


def preferences(count=40):
    return [records.Preference(f"row-{n}", f"prompt {n}", "", f"good {n}", f"bad {n}", "made") for n in range(count)]


def prompts(sizes):
    return [
        records.TestPrompt(f"{name}-{n}", name, f"prompt {n} of {name}", "", "")
        for name, size in sizes.items()
        for n in range(size)
    ]


def trial(run_folder, key="try", seed=1, rows=None, **changes):
    one = trials.trial(SMOKE, key, rows or pairs(), seed)
    quick = one.training.model_copy(update={"global_batch": 4, "micro_batch": 4, **changes})
    return dataclasses.replace(one, training=quick)


def in_this_process(todo, count, tell):
    for one in todo:
        trials.make_one(one.folder, tell)


def weights(one):
    return (one.folder / "model" / "model.safetensors").read_bytes()


# what trials differ in


def test_wrong_labels_are_exactly_the_share_and_the_same_again_and_nested():
    rows = preferences()
    exchanged = {}
    for share in (0.0, 0.1, 0.4, 1.0):
        noisy = variants.noisy(rows, share, seed=1)
        assert noisy == variants.noisy(rows, share, seed=1)
        assert [row.id for row in noisy] == [row.id for row in rows]
        exchanged[share] = {new.id for new, old in zip(noisy, rows, strict=True) if new != old}
        assert len(exchanged[share]) == round(share * len(rows))
        assert all(
            (new.good, new.bad) in ((old.good, old.bad), (old.bad, old.good))
            for new, old in zip(noisy, rows, strict=True)
        )
    assert exchanged[0.1] < exchanged[0.4]
    assert variants.noisy(rows, 0.4, seed=2) != variants.noisy(rows, 0.4, seed=1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        variants.noisy(rows, 1.5, seed=1)


def test_a_wrong_label_shows_in_what_the_teacher_writes():
    from bpo_utils import data

    rows = data.load_preferences(SMOKE)[:200]
    calls = chat.Calls(store=None)
    right = variants.pairs_of(SMOKE, rows, SMOKE.teacher, calls)
    wrong = variants.pairs_of(SMOKE, variants.noisy(rows, 1.0, seed=1), SMOKE.teacher, calls)
    alone = variants.without_feedback(SMOKE, rows, calls)
    mixed = variants.with_noise(SMOKE, rows, right, 0.25, 1, calls)
    other = [pair for pair in mixed if pair not in right]
    assert 0 < len(other) <= round(0.25 * len(right)) and {pair.id for pair in mixed} <= {pair.id for pair in right}
    assert variants.with_noise(SMOKE, rows, right, 0.0, 1, calls) == right

    def words(found):
        return sum(len(row.optimized_prompt.split()) for row in found) / len(found)

    assert words(alone) < words(wrong) < words(right)  # it asks for what the "good" response gives, or for nothing


def test_a_recorded_teacher_cannot_be_asked_anew():
    recorded = SMOKE.teacher.model_copy(update={"provider": "recorded"})
    with pytest.raises(ValueError, match=r"iterating\.teacher"):
        variants.pairs_of(SMOKE, preferences(), recorded, chat.Calls(store=None))


def test_subsets_are_nested_seeded_and_in_order():
    rows = pairs(24)
    small, large = variants.subset(rows, 5, seed=1), variants.subset(rows, 12, seed=1)
    assert len(small) == 5 and set(small) < set(large) and large == [row for row in rows if row in large]
    assert variants.subset(rows, 12, seed=2) != large
    with pytest.raises(ValueError, match="there are 24"):
        variants.subset(rows, 25, seed=1)


def test_drawn_prompts_have_every_sets_share():
    everything = prompts({"bpo_test": 20, "dolly": 20, "vicuna": 8, "self_instruct": 25})
    few, more = variants.drawn(everything, 24), variants.drawn(everything, 40)
    counts = {name: sum(row.test_set == name for row in few) for name in records.TEST_SETS}
    assert counts == {"bpo_test": 7, "dolly": 6, "vicuna": 3, "self_instruct": 8} and sum(counts.values()) == 24
    assert len(more) == 40 and few == variants.drawn(everything, 24) and few == [r for r in everything if r in few]
    assert few != everything[:24]
    assert variants.drawn(everything, None) == everything
    with pytest.raises(ValueError, match="there are 73"):
        variants.drawn(everything, 74)


# trials


def test_a_trial_is_loaded_with_the_same_facts_and_trained_again_with_others(run_folder, monkeypatch):
    monkeypatch.setattr(trials, "_in_processes", in_this_process)
    one = trial(run_folder)
    told = []
    first = trials.make_all([one], TEXTS, 1, told.append)
    assert first[0]["source"] == "trained" and trials.is_trained(one) and len(trials.rewritten(one, TEXTS)) == 3
    before, said = weights(one), len(told)
    assert trials.make_all([one], TEXTS, 1, told.append)[0]["source"] == "loaded"
    assert len(told) == said  # nothing was started the second time
    for other in (
        trial(run_folder, rows=pairs(9)),
        trial(run_folder, learning_rate=1e-3),
        trial(run_folder, rows=[dataclasses.replace(row, optimized_prompt="Other.") for row in pairs()]),
    ):
        assert not trials.is_trained(other)
    assert trials.make_all([trial(run_folder, rows=pairs(9))], TEXTS, 1, told.append)[0]["source"] == "trained"
    assert weights(one) != before and not trials.is_trained(one)


def test_two_processes_give_the_weights_that_one_gives_in_this_process(run_folder, monkeypatch):
    import torch

    monkeypatch.setattr(trials.os, "cpu_count", lambda: 2)  # a thread for each, whatever this machine has
    both = [trial(run_folder, "left", 1), trial(run_folder, "right", 2)]
    trials.make_all(both, TEXTS, 2, lambda text: None)
    apart = [dataclasses.replace(one, folder=one.folder.with_name(f"{one.key}-here")) for one in both]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for one in apart:
            trials._prepare(one, TEXTS)
            trials.make_one(one.folder, lambda text: None)
    finally:
        torch.set_num_threads(threads)
    assert [weights(one) for one in both] == [weights(one) for one in apart]
    assert weights(both[0]) != weights(both[1])
    assert [trials.rewritten(one, TEXTS) for one in both] == [trials.rewritten(one, TEXTS) for one in apart]


def test_a_training_that_breaks_tells_what_it_said_and_leaves_no_process(run_folder, monkeypatch):
    started = []
    real = workers.start

    def start(*arguments):
        started.append(real(*arguments))
        return started[-1]

    monkeypatch.setattr(workers, "start", start)
    broken = trial(run_folder, "broken", max_length=1)  # too short for any pair
    with pytest.raises(ChildProcessError, match=r"(?s)ended with code 1.*fits into max_length"):
        trials.make_all([broken, trial(run_folder, "whole", epochs=50)], TEXTS, 2, lambda text: None)
    assert len(started) == 2 and all(process.returncode is not None for process in started)


def test_ctrl_c_ends_the_processes(run_folder, monkeypatch):
    started = []
    real = workers.start
    monkeypatch.setattr(workers, "start", lambda *rest: started.append(real(*rest)) or started[-1])
    monkeypatch.setattr(workers, "_wait", lambda process: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trials.make_all([trial(run_folder, epochs=50)], TEXTS, 1, lambda text: None)
    assert [process.returncode is not None for process in started] == [True]


def test_a_child_ends_with_its_parent(run_folder, tmp_path):
    one = trial(run_folder, epochs=500)
    trials._prepare(one, TEXTS)
    process = workers.start(trials.job([one], tmp_path / "log"), threads=1)
    process.stdin.close()  # what happens when a kernel is killed
    assert process.wait(timeout=60) == 1
    assert not trials.is_trained(one)


def test_trainings_for_a_cluster_are_named_not_started(run_folder, monkeypatch):
    monkeypatch.setattr(workers, "start", lambda *rest: pytest.fail("a training was started here"))
    one = trial(run_folder, launch="slurm")
    with pytest.raises(FileNotFoundError, match=r"srun python -m bpo_utils\.further\.train_one .*try-s1"):
        trials.make_all([one], TEXTS, 1, print)
    assert (one.folder / "trial.json").is_file() and (one.folder / "pairs.jsonl").is_file()


def test_notebook_03s_model_is_taken_only_where_it_would_be_trained_the_same(run_folder):
    made = trial(run_folder, "notebook-03")
    trials._prepare(made, TEXTS)
    trials.make_one(made.folder, lambda text: None)
    trained = made.folder / "model"
    assert not trials.adopt(trial(run_folder, "a", seed=2), trained, pairs())
    assert not trials.adopt(trial(run_folder, "b", rows=pairs(9)), trained, pairs())
    assert trials.adopt(trial(run_folder, "c"), trained, pairs()) and trials.is_trained(trial(run_folder, "c"))
    assert not trials.adopt(trial(run_folder, "c"), trained, pairs())  # it is there already


def test_work_is_shared_evenly(run_folder):
    parts = trials.shares([trial(run_folder, f"t{n}", rows=pairs(n)) for n in (20, 1, 2, 19, 3)], 2)
    sizes = [sum(trials._work(one) for one in part) for part in parts]
    assert len(parts) == 2 and sum(map(len, parts)) == 5 and abs(sizes[0] - sizes[1]) <= 301 + 300


# rounds


def test_rounds_stay_where_nothing_changes_any_more():
    made = [
        Rewritten("a", "a3", steps=("a1", "a2", "a3")),
        Rewritten("b", "b", "unchanged", ("b",)),
        Rewritten("c", "", "too_long"),
        Rewritten("", "", "empty_prompt"),
    ]
    assert iterate.round_texts(made, 0) == ("a", "b", "c", "")
    assert iterate.round_texts(made, 2) == ("a2", "b", None, "")
    assert iterate.round_texts(made, 5) == ("a3", "b", None, "")


def gain(mean, low, high):
    return seeds.Mean(mean, low, high, 100, 3, ())


def test_saturation_is_the_first_round_whose_successor_does_not_clearly_gain():
    clear, unclear, loss = gain(0.2, 0.1, 0.3), gain(0.02, -0.01, 0.05), gain(-0.1, -0.2, -0.01)
    assert iterate.saturates_after([clear, clear, unclear, clear]) == 2
    assert iterate.saturates_after([unclear]) == 0  # even the first round does not gain
    assert iterate.saturates_after([clear, loss]) == 1
    assert iterate.saturates_after([clear, clear]) is None


def test_a_step_is_paired():
    old = [[0.0, 1.0, -1.0, 0.0], [1.0, 0.0, -1.0, 0.0]]
    new = [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
    found = iterate.step(old, new)
    assert found.mean == pytest.approx(0.5) and (found.n, found.seeds) == (4, 2)
    assert iterate.step(old, old).high == 0.0


def test_drift_counts_what_a_round_left_alone():
    originals = ["tell me about sleep", "what is glass"]
    first = ["Please tell me about sleep, with its causes.", "what is glass"]
    found = iterate.drifted([first], [originals], originals)
    assert found["unchanged"] == 0.5 and found["growth"] == pytest.approx((1.0 + 2.0) / 2)
    assert iterate.kept(False, [first], originals) == {}
