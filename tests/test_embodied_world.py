"""Notebook 10's desk: BabyAI's own scenes, missions, expert and verdicts, and the demonstrations that are kept."""

import functools

import numpy as np
import pytest

from bpo_utils import paths, profile
from bpo_utils.embodied import world
from bpo_utils.embodied.wordings import TASKS, THINGS, canonical

PROFILES = [path.stem for path in paths.PROFILES.glob("*.yaml") if profile.load(path.stem).embodying]
SEEDS = [first + n for first in world.FIRST_SEED.values() for n in range(20)]


demonstration = functools.cache(world.demonstration)


def state(env):
    return env.grid.encode().tobytes(), tuple(env.agent_pos), int(env.agent_dir), env.mission


def counting(monkeypatch):
    """The seeds of the demonstrations that the expert gives from now on."""
    asked = []
    monkeypatch.setattr(world, "demonstration", lambda seed: asked.append(seed) or demonstration(seed))
    return asked


def same(first, second):
    return all(
        (a.seed, a.views.dtype, a.actions.dtype) == (b.seed, b.views.dtype, b.actions.dtype)
        and np.array_equal(a.views, b.views)
        and np.array_equal(a.actions, b.actions)
        for a, b in zip(first, second, strict=True)
    )


# scenes


@pytest.mark.parametrize("name", PROFILES)
def test_no_episode_lies_in_two_sets(name):
    settings = profile.load(name).embodying
    counts = {"train": settings.demonstrations, "validation": settings.validation, "test": settings.test}
    sets = [set(range(world.FIRST_SEED[split], world.FIRST_SEED[split] + n)) for split, n in counts.items()]
    assert len(set().union(*sets)) == sum(counts.values())
    assert {world.Episode(seed, None, None).task for seed in sets[0]} == set(TASKS)


def test_a_scene_is_decided_by_its_seed_alone():
    first, view = world.scene(45)
    for other in range(10):
        world.scene(other)
    np.random.seed(3)
    second, again = world.scene(45)
    assert state(first) == state(second) and np.array_equal(view, again)
    assert len({state(world.scene(5 + 20 * n)[0]) for n in range(10)}) == 10  # of one task


def test_the_sentence_of_a_task_is_babyais_own():
    for seed in range(len(TASKS)):
        env, _ = world.scene(seed)
        assert env.mission == canonical(TASKS[seed]) == canonical(world.Episode(seed, None, None).task)
    assert len({canonical(task) for task in TASKS}) == 20


def test_the_same_four_things_lie_on_every_desk():
    for seed in SEEDS:
        env, view = world.scene(seed)
        inside = [each for each in env.grid.grid if each is not None and each.type != "wall"]
        assert sorted((each.color, each.type) for each in inside) == sorted(THINGS)
        assert (view.shape, view.dtype, env.carrying) == ((7, 7, 3), "uint8", None)


def test_nothing_is_printed(capfd):
    from minigrid.envs.babyai.core.roomgrid_level import RejectSampling, RoomGridLevel

    rejected, real = [], RoomGridLevel.validate_instrs

    def validate(self, instruction):
        if not rejected:
            rejected.append(instruction)
            raise RejectSampling("a scene that does not do")
        return real(self, instruction)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoomGridLevel, "validate_instrs", validate)
        world.scene(0)
    world.demonstration(13)
    world.rollouts(lambda texts, views: [0] * len(texts), [(0, ""), (13, "")])
    assert rejected and capfd.readouterr() == ("", "")


# demonstrations


def test_the_expert_solves_every_episode():
    for seed in SEEDS:
        made = demonstration(seed)
        steps = len(made.actions)
        assert steps > 0 and made.views.shape == (steps, 7, 7, 3) and made.views.dtype == "uint8"
        assert set(made.actions.tolist()) <= set(range(7)) and len(world.ACTIONS) == 7
        assert steps < (72 if made.task.skill == "put" else 36) and np.array_equal(made.views[0], world.scene(seed)[1])
        assert (made.actions == 3).any() == (made.task.skill != "go")  # picked up where something is to be moved


def test_an_expert_that_fails_is_an_error(monkeypatch):
    from minigrid.utils.baby_ai_bot import BabyAIBot

    monkeypatch.setattr(BabyAIBot, "replan", lambda self: 0)
    with pytest.raises(RuntimeError, match=r"did not solve episode 9 \(put the red box .*\) in 72 steps"):
        world.demonstration(9)


def test_demonstrations_are_kept_and_loaded_again(tmp_path, monkeypatch):
    asked = counting(monkeypatch)
    for split, first in world.FIRST_SEED.items():
        made = world.demonstrations(split, 4, tmp_path / f"{split}.npz")
        assert asked == [each.seed for each in made] == list(range(first, first + 4))
        asked.clear()
        before = (tmp_path / f"{split}.npz").read_bytes()
        kept = world.demonstrations(split, 4, tmp_path / f"{split}.npz")
        assert asked == [] and same(made, kept) and (tmp_path / f"{split}.npz").read_bytes() == before
        with np.load(tmp_path / f"{split}.npz", allow_pickle=False) as arrays:
            assert all(arrays[name].dtype.kind in "iuU" for name in arrays.files)  # kind O would be a pickle


def test_demonstrations_of_another_number_set_or_minigrid_are_made_again(tmp_path, monkeypatch):
    import minigrid

    asked, file = counting(monkeypatch), tmp_path / "made.npz"
    world.demonstrations("train", 3, file)
    for split, count in (("train", 5), ("train", 2), ("test", 2)):
        asked.clear()
        made = world.demonstrations(split, count, file)
        assert asked == [each.seed for each in made] and len(made) == count
        assert same(made, world.demonstrations(split, count, file))
    asked.clear()
    monkeypatch.setattr(minigrid, "__version__", "0.0.1")
    world.demonstrations("test", 2, file)
    assert len(asked) == 2


# rollouts


def test_rollouts_of_the_experts_actions_succeed():
    turn = dict.fromkeys(map(str, SEEDS), 0)

    def act(texts, views):
        assert views.shape == (len(texts), 7, 7, 3)
        for text, view in zip(texts, views, strict=True):
            assert np.array_equal(view, demonstration(int(text)).views[turn[text]])
            turn[text] += 1
            yield demonstration(int(text)).actions[turn[text] - 1]

    taken = world.rollouts(act, [(seed, str(seed)) for seed in SEEDS])
    assert taken == [demonstration(seed).actions.tolist() for seed in SEEDS]


def test_a_policy_that_always_turns_left_fails_at_babyais_limit():
    told = [(seed, f"told {seed}") for seed in range(20)]
    heard = set()
    taken = world.rollouts(lambda texts, views: heard.update(texts) or np.zeros(len(texts), int), told)
    assert taken == [[0] * (72 if TASKS[seed].skill == "put" else 36) + [-1] for seed in range(20)]
    assert heard == {text for _, text in told}
    assert world.rollouts(lambda texts, views: [], []) == []
