"""A grid: one notebook, executed once for every combination of some parameters, each in a run folder of its own.

The points are independent: they run in parallel processes here, or one per task of a Slurm array, by one command.
"""

import concurrent.futures
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from bpo_utils import ledger, paths, profile, runner
from bpo_utils.notebook import Notebook, Place, WrongUse, assign, find, nearest
from bpo_utils.profile import Profile

KEYS = ("name", "notebook", "profile", "parameters")
FLOAT_WITHOUT_POINT = re.compile(r"[-+]?\d+[eE][-+]?\d+")  # YAML 1.1 makes text of 1e-4
FORM = 'a grid is: name: text, notebook: "03", profile: mini, parameters: {name: [value, ...], ...}'


@dataclass(frozen=True)
class Grid:
    """A grid file, read and checked. `points`: the parameters of each point, the last parameter varying fastest."""

    path: Path
    name: str
    profile: Profile
    notebook: Notebook
    points: list[dict[str, object]]

    def place(self, point: int) -> Place:
        """Where one point keeps its files: named after its parameters, so that adding values moves no point."""
        text = json.dumps(self.points[point], sort_keys=True, ensure_ascii=False)
        short = hashlib.sha256(text.encode("utf-8")).hexdigest()[:10]
        folder = paths.run_dir(self.profile.name) / "grid" / self.name / short
        return Place(folder, folder / "figures")

    def label(self, point: int) -> str:
        """`lr 2/6 03_training_launch a1b2c3d4e5 learning_rate=0.001 seed=1`."""
        values = " ".join(f"{name}={value}" for name, value in self.points[point].items())
        return f"{self.name} {point + 1}/{len(self.points)}  {self.place(point).run.name}  {values}"


def load(path: Path, notebooks_dir: Path = paths.NOTEBOOKS) -> Grid:
    """Read a grid file and check every point against the notebook. Raises WrongUse: what is wrong, and where."""
    where = paths.shown(path)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WrongUse(f"there is no grid file {where}") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise WrongUse(f"{where} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise WrongUse(f"{where}: {FORM}")
    for key in found:
        if key not in KEYS:
            raise WrongUse(f"{where}: unknown key {key!r}{nearest(str(key), list(KEYS))}; {FORM}")
    if gone := [key for key in KEYS if key not in found]:
        raise WrongUse(f"{where}: {', '.join(gone)} is missing; {FORM}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", str(found["name"])):
        raise WrongUse(f"{where}: name {found['name']!r} becomes a folder; use letters, digits, - and _ only")
    try:
        chosen = profile.load(str(found["profile"]))
    except ValueError as error:
        raise WrongUse(f"{where}: {error}") from error
    number = str(found["notebook"]).zfill(2)
    notebooks = {notebook.number: notebook for notebook in find(notebooks_dir)}
    if number not in notebooks:
        raise WrongUse(f"{where}: there is no notebook {number}; there are {', '.join(notebooks)}")
    grid = Grid(path, str(found["name"]), chosen, notebooks[number], _points(found["parameters"], where))
    for values in grid.points:
        assign([grid.notebook], chosen.name, values)
    return grid


def _points(parameters: object, where: str) -> list[dict[str, object]]:
    if not isinstance(parameters, dict) or not parameters:
        raise WrongUse(f"{where}: parameters is {parameters!r}; {FORM}")
    for name, values in parameters.items():
        if not isinstance(values, list) or not values:
            raise WrongUse(f"{where}: {name} is {values!r}; give a list of values, as in {name}: [1, 2]")
    columns = [[_value(value) for value in values] for values in parameters.values()]
    points = [dict(zip(parameters, values, strict=True)) for values in itertools.product(*columns)]
    for point in points:
        if points.count(point) > 1:
            raise WrongUse(f"{where}: the point {point} comes twice; remove the double value")
    return points


def _value(value: object) -> object:
    return float(value) if isinstance(value, str) and FLOAT_WITHOUT_POINT.fullmatch(value) else value


def run_point(grid: Grid, point: int) -> str:
    """Run one point (counted from 0) if it has to; returns its status. Raises WrongUse as runner.run does."""
    if not 0 <= point < len(grid.points):
        raise WrongUse(f"--task {point}: {paths.shown(grid.path)} has the tasks 0 to {len(grid.points) - 1}")
    place = grid.place(point)
    injected = assign([grid.notebook], grid.profile.name, grid.points[point])[grid.notebook.name]
    with ledger.locked(place.run):
        ledger.recover(place.run)
        runner.bring_inputs(grid.notebook, runner.place_of(grid.profile.name), place)
        resume = f"bpo grid {paths.shown(grid.path)}"
        return runner.run_one(grid.notebook, injected, place, grid.profile, label=grid.label(point), resume=resume)


def run_all(grid: Grid, jobs: int, notebooks_dir: Path = paths.NOTEBOOKS) -> int:
    """Run all points, at most `jobs` at a time, each in a process of its own; returns the exit code of `bpo grid`.

    A point that fails does not stop the others. Raises WrongUse before anything starts if an input is missing.
    """
    source = runner.place_of(grid.profile.name)
    for entry in grid.notebook.reads:
        if ledger.digest(source.find(entry)) is None:
            everything = find(notebooks_dir)
            raise WrongUse(runner.missing_input(grid.notebook, entry, everything, source, grid.profile))
    command = [
        sys.executable,
        "-m",
        "bpo_utils.cli",
        "grid",
        str(grid.path.resolve()),
        "--notebooks",
        str(notebooks_dir),
    ]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))}
    # Unasked, every process would start as many threads as there are cores, and they would wait for each other.
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return max(_parallel([[*command, "--task", str(point)] for point in range(len(grid.points))], jobs, env))


def _parallel(commands: list[list[str]], jobs: int, env: dict[str, str]) -> list[int]:
    """Run commands, at most `jobs` at a time, and print what each printed when it ends; returns their exit codes."""
    processes: list[subprocess.Popen] = []
    waiting, codes = iter(commands), []

    def start() -> set[concurrent.futures.Future]:
        for command in itertools.islice(waiting, 1):
            # A session of its own: Ctrl-C reaches each process once, from here, and this process sees them end.
            options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
            processes.append(subprocess.Popen(command, env=env, start_new_session=True, **options))
            return {pool.submit(_followed, processes[-1])}
        return set()

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            running = set().union(*(start() for _ in range(jobs)))
            while running:
                over, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for code, output in (future.result() for future in over):
                    print(output, end="", flush=True)
                    codes.append(code)
                    running |= start()
        except KeyboardInterrupt:
            for process in processes:
                process.send_signal(signal.SIGINT)  # does nothing to one that has ended
            raise
    return codes


def _followed(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate()
    return process.returncode, output
