"""The desk: BabyAI's own room with the same four things in every scene, so that only the sentence says what to do.

Levels, verifiers and the expert are minigrid's (Chevalier-Boisvert et al., arXiv 1810.08272); ours is which things lie
there. An episode is a seed: it decides scene and task, and the three sets have seeds of their own.
"""

import contextlib
import functools
import io
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils import records
from bpo_utils.embodied.wordings import TASKS, THINGS, Task
from bpo_utils.training import checkpoint

ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")  # minigrid's, by number
FIRST_SEED = {"train": 0, "validation": 1_000_000, "test": 3_000_000}  # 2,000,000 on were tried while this was written


@dataclass(frozen=True)
class Episode:
    """A demonstration: uint8 views (steps, 7, 7, 3) of object, colour and state, and the expert's actions (steps,)."""

    seed: int
    views: Any
    actions: Any

    @property
    def task(self) -> Task:
        """What is to be done."""
        return TASKS[self.seed % len(TASKS)]


@functools.cache
def desk() -> type:
    """The level's class: minigrid brings pygame along, so it is imported when a world is needed."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
    from minigrid.envs.babyai.core.verifier import GoToInstr, ObjDesc, PickupInstr, PutNextInstr

    class Desk(RoomGridLevel):
        def __init__(self, task: Task):
            self.task = task
            super().__init__(num_rows=1, num_cols=1, room_size=6)

        def gen_mission(self) -> None:
            self.place_agent()
            for colour, kind in THINGS:
                self.add_object(0, 0, kind, colour)
            self.check_objs_reachable()
            things = [ObjDesc(kind, colour) for colour, kind in THINGS]
            instruction = {"go": GoToInstr, "pick": PickupInstr, "put": PutNextInstr}[self.task.skill]
            self.instrs = instruction(*(things[n] for n in (self.task.a, self.task.b) if n is not None))

    return Desk


def scene(seed: int) -> tuple[Any, Any]:
    """The environment of an episode at its start, and what the agent sees."""
    env = desk()(TASKS[seed % len(TASKS)])
    with contextlib.redirect_stdout(io.StringIO()):  # minigrid prints every scene that it rejects
        seen, _ = env.reset(seed=seed)
    return env, seen["image"]


def demonstration(seed: int) -> Episode:
    """What BabyAI's expert does. Raises RuntimeError if it fails."""
    import numpy as np

    env, view = scene(seed)
    from minigrid.utils.baby_ai_bot import BabyAIBot

    expert, views, actions, ended, reward = BabyAIBot(env), [], [], False, 0.0
    while not ended:
        views.append(view)
        actions.append(int(expert.replan()))
        seen, reward, success, late, _ = env.step(actions[-1])
        view, ended = seen["image"], success or late
    if reward <= 0:
        raise RuntimeError(f"the expert did not solve episode {seed} ({env.mission}) in {len(actions)} steps")
    return Episode(seed, np.array(views), np.array(actions))


def code() -> str:
    """A hash of what decides scenes and sentences."""
    import minigrid

    files = [Path(__file__).with_name(name) for name in ("world.py", "wordings.py", "wordings.yaml")]
    return checkpoint.digest([minigrid.__version__, *map(records.read_text, files)])


def demonstrations(split: str, count: int, file: Path) -> list[Episode]:
    """The first `count` episodes of a set; kept in an npz file, and made again if that has others."""
    import numpy as np

    seeds, facts = FIRST_SEED[split] + np.arange(count), code()
    if file.is_file():
        with np.load(file) as kept:
            if kept["seeds"].tolist() == seeds.tolist() and str(kept["facts"]) == facts:
                ends = np.cumsum(kept["lengths"])[:-1]
                parts = zip(np.split(kept["views"], ends), np.split(kept["actions"], ends), strict=True)
                return [Episode(int(seed), *part) for seed, part in zip(seeds, parts, strict=True)]
    made = [demonstration(int(seed)) for seed in seeds]
    views, actions = (np.concatenate([getattr(each, name) for each in made]) for name in ("views", "actions"))
    lengths = [len(each.actions) for each in made]
    packed = io.BytesIO()
    np.savez_compressed(packed, facts=facts, seeds=seeds, lengths=lengths, views=views.astype("uint8"), actions=actions)
    records.write_bytes(file, packed.getvalue())
    return made


def rollouts(act: Callable[[list[str], Any], Any], wanted: Sequence[tuple[int, str]]) -> list[list[int]]:
    """Let a policy do episodes, all at once; each is a seed and what the policy is told.

    `act(texts, views)` gives an action for each. Returns the actions taken, with -1 at the end of a failed episode:
    BabyAI's own time limit (36 steps, 72 for put) was over.
    """
    import numpy as np

    running = {n: scene(seed) for n, (seed, _) in enumerate(wanted)}
    taken: list[list[int]] = [[] for _ in wanted]
    met: list[dict[str, int]] = [{} for _ in wanted]  # which states, and before which action
    while running:
        chosen = act([wanted[n][1] for n in running], np.stack([view for _, view in running.values()]))
        for (n, (env, _)), action in zip(list(running.items()), chosen, strict=True):
            if (since := met[n].setdefault(env.hash(), len(taken[n]))) < len(taken[n]):
                # Nothing is drawn: it would go round in this circle until the limit.
                rest = itertools.islice(itertools.cycle(taken[n][since:]), env.max_steps - len(taken[n]))
                taken[n] += [*rest, -1]
                del running[n]
                continue
            seen, reward, success, late, _ = env.step(int(action))
            taken[n] += [int(action)] if reward > 0 or not (success or late) else [int(action), -1]
            running[n] = (env, seen["image"])
            if success or late:
                del running[n]
    return taken
