"""Runs the notebooks of a profile in order: skips what is up to date, runs the rest, and keeps the ledger.

Up to date is decided by hashes alone: source, parameters, package code, inputs, outputs. Nothing else knows what is
downstream of what: a notebook whose inputs changed runs, and one whose inputs came out the same does not.
"""

import contextlib
import dataclasses
import importlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bpo_utils import kernel, ledger, paths, progress
from bpo_utils.ledger import Entry
from bpo_utils.notebook import Notebook, Place, WrongUse, assign, find, writer_of
from bpo_utils.profile import Profile

UP_TO_DATE = "up to date"
GOOD = (UP_TO_DATE, "done")


def place_of(profile: str) -> Place:
    """Where a profile's run keeps its files."""
    return Place(paths.run_dir(profile), paths.figures_dir())


def executed_path(notebook: Notebook, place: Place) -> Path:
    """Where the executed notebook is kept, with its outputs."""
    return place.run / "notebooks" / notebook.path.name


def run(
    profile: Profile,
    *,
    start: str | None = None,
    only: str | None = None,
    further: bool = False,
    force: bool = False,
    parameters: dict[str, object] | None = None,
    notebooks_dir: Path = paths.NOTEBOOKS,
    resume: str = "",
    before: Callable[[Notebook], dict[str, object]] | None = None,
) -> dict[str, str]:
    """Run the notebooks of a profile until one fails; returns the status of each by name, in order.

    `start` and `only` are notebook numbers; `further` adds the profile's further experiments; `force` runs the
    selected ones even if up to date. `before` is called with every notebook that is about to run and returns
    parameters to add; it may raise to stop there. Raises WrongUse before anything starts (wrong parameter, number,
    missing input, run folder in use), KeyboardInterrupt after recording it.
    """
    everything = find(notebooks_dir)
    place = place_of(profile.name)
    mine = of_profile(profile, everything, place)
    selected = select(mine, profile, start, only, further)
    injected = assign(selected, profile.name, parameters or {})
    resume = resume or f"bpo run --profile {profile.name}"
    width = max(len(notebook.name) for notebook in selected)
    states: dict[str, str] = {}
    with ledger.locked(place.run):
        ledger.recover(place.run)
        check_inputs(selected, everything, place, profile)
        for notebook in selected:
            label = notebook.name.ljust(width)
            values = notebook.values(injected[notebook.name])
            if before and (force or why_run(notebook, values, place)):
                injected[notebook.name] |= before(notebook)
            states[notebook.name] = run_one(
                notebook, injected[notebook.name], place, profile, force=force, label=label, resume=resume
            )
            if states[notebook.name] not in GOOD:
                return states
        waiting = [
            n.name
            for n in select(mine, profile, None, None, further)
            if n.name not in states and why_run(n, n.values({"profile": profile.name}), place)
        ]
    progress.results(place, profile.label, waiting)
    if profile.stops_because:
        print(f"\n{profile.stops_because}")
    return states


def reached_the_cap(profile: str, states: dict[str, str]) -> bool:
    """Whether the last of these notebooks stopped because the next call could have passed the budget's cap."""
    entry = ledger.latest(place_of(profile).run).get(list(states)[-1])
    return bool(entry and entry.error and entry.error["name"] == "BudgetReached")


def of_profile(profile: Profile, everything: list[Notebook], place: Place) -> list[Notebook]:
    """The notebooks of a profile. What only another profile's notebook writes is an input of theirs if it is there."""

    numbers = [*profile.notebooks, *profile.further]

    def wanted(entry: str) -> bool:
        writer = writer_of(entry, everything)
        foreign = writer is not None and writer.number not in numbers
        return not foreign or ledger.digest(place.find(entry)) is not None

    mine = [notebook for notebook in everything if notebook.number in numbers]
    return [dataclasses.replace(each, reads=tuple(filter(wanted, each.reads))) for each in mine]


def select(
    notebooks: list[Notebook], profile: Profile, start: str | None, only: str | None, further: bool = False
) -> list[Notebook]:
    """The notebooks to run, by --from, --only and --all; a further experiment runs if one of them asks for it.

    Raises WrongUse for a number that the profile does not have.
    """
    numbers = [notebook.number for notebook in notebooks]
    for option, number in (("--from", start), ("--only", only)):
        if number is not None and number.zfill(2) not in numbers:
            why = f"; {profile.stops_because}" if profile.stops_because else ""
            has = f"profile {profile.name} has the notebooks {', '.join(numbers) or 'none'}"
            raise WrongUse(f"{option} {number}: {has}{why}")
    if not notebooks:
        raise WrongUse(f"none of the notebooks {', '.join(profile.notebooks)} of profile {profile.name} is there")
    if only is not None:
        return [notebook for notebook in notebooks if notebook.number == only.zfill(2)]
    further = further or (start or "").zfill(2) in profile.further
    wanted = [notebook for notebook in notebooks if further or notebook.number not in profile.further]
    return [notebook for notebook in wanted if start is None or notebook.number >= start.zfill(2)]


def check_inputs(selected: list[Notebook], everything: list[Notebook], place: Place, profile: Profile) -> None:
    """Raise WrongUse for an input that is neither there nor written by an earlier one of the selected notebooks."""
    for position, notebook in enumerate(selected):
        for entry in notebook.reads:
            if ledger.digest(place.find(entry)) is None and not writer_of(entry, selected[:position]):
                raise WrongUse(missing_input(notebook, entry, everything, place, profile))


def missing_input(notebook: Notebook, entry: str, everything: list[Notebook], place: Place, profile: Profile) -> str:
    """One sentence: what is missing, which notebook writes it, and the command that runs it."""
    writer = writer_of(entry, everything)
    told = f"{notebook.name} reads {paths.shown(place.find(entry))}, which is not there"
    if writer is None:
        return f"{told}, and no notebook declares that it writes it; correct the reads of {notebook.path.name}"
    return f"{told}; {writer.name} writes it: bpo run --profile {profile.name} --from {writer.number}"


def why_run(notebook: Notebook, values: dict[str, object], place: Place) -> str:
    """Why a notebook has to run, in a few words; empty if it is up to date."""
    entry = ledger.latest(place.run).get(notebook.name)
    if entry is None:
        return "never run"
    if entry.status != "done":
        return f"last run: {entry.status}"
    if entry.source_hash != notebook.source_hash:
        return "the notebook changed"
    if entry.parameters != values:
        return "other parameters"
    if entry.code_hash != ledger.code_hash():
        return "the package code changed"
    for recorded in (entry.inputs, entry.outputs):
        for name, before in recorded.items():
            if (present := ledger.digest(place.find(name))) != before:
                return f"{name} {'is missing' if present is None else 'changed'}"
    return "" if executed_path(notebook, place).exists() else "the executed notebook is missing"


def run_one(
    notebook: Notebook,
    injected: dict[str, object],
    place: Place,
    profile: Profile,
    *,
    force: bool = False,
    label: str,
    resume: str,
) -> str:
    """Run one notebook if it has to, print its line and return its status; the caller holds the run folder's lock."""
    values = notebook.values(injected)
    if not force and not why_run(notebook, values, place):
        progress.line(label, UP_TO_DATE)
        return UP_TO_DATE
    importlib.import_module("papermill")  # slow, so before the ledger says that something is running
    inputs = {entry: ledger.digest(place.find(entry)) for entry in notebook.reads}
    if gone := [entry for entry, found in inputs.items() if found is None]:
        raise WrongUse(f"{notebook.name} reads {gone[0]}, which vanished while the run was going on; run again")
    executed = executed_path(notebook, place)
    before = {entry: _stamps(place.find(entry)) for entry in notebook.writes}
    started = time.monotonic()
    entry = ledger.begin(
        place.run, notebook=notebook.name, parameters=values, source_hash=notebook.source_hash, inputs=inputs
    )
    with progress.elapsed(label):
        env = kernel.environment(place, profile)
        outcome = kernel.execute(notebook, injected, executed, env, profile.cell_timeout_s)
    with kernel.undisturbed(), _told_if_unwritten(entry, resume):
        if profile.training and profile.training.launch == "slurm":
            before = {}  # a job outside writes there, so files that this run left alone are no sign of a fault
        entry = _finished(entry, outcome, notebook, place, before, time.monotonic() - started)
        ledger.end(place.run, entry)
    told = progress.wrote(notebook.writes, place) if entry.status == "done" else ""
    progress.line(label, entry.status, progress.duration(entry.seconds), told)
    if entry.status != "done":
        progress.failure(entry, executed, resume)
    if entry.status == "interrupted":
        raise KeyboardInterrupt
    return entry.status


def _finished(
    entry: Entry, outcome: kernel.Outcome, notebook: Notebook, place: Place, before: dict[str, dict], seconds: float
) -> Entry:
    """The ledger line of a run that ended; one that did not write all that it declares has failed."""
    status, error = outcome.status, outcome.error
    outputs = {name: ledger.digest(place.find(name)) for name in notebook.writes}
    unwritten = [
        name for name, found in outputs.items() if found is None or _stamps(place.find(name)) == before.get(name)
    ]
    if status == "done" and unwritten:
        message = f"the notebook ended without having written {', '.join(unwritten)}, which it declares in its metadata"
        name = "MissingOutput"
        status, error = "failed", {"cell": None, "heading": None, "name": name, "message": message, "last_lines": []}
    return dataclasses.replace(
        entry,
        status=status,
        ended=ledger.now(),
        seconds=round(seconds, 3),
        outputs={name: found for name, found in outputs.items() if name not in unwritten},
        error=error,
    )


def _stamps(path: Path) -> dict[str, tuple[int, int, int]]:
    """What changes when a file is written, even with the same content, by file name."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    stats = {str(file): file.stat() for file in files if file.is_file()}
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


@contextlib.contextmanager
def _told_if_unwritten(entry: Entry, resume: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        left = f"{entry.notebook} ended, but the ledger could not be told and still says running"
        raise OSError(error.errno, f"{left}; the next start corrects that: {resume}. {error.strerror}") from error


def bring_inputs(notebook: Notebook, source: Place, target: Place) -> None:
    """Copy the inputs of a notebook from one run into another where they differ. Raises WrongUse if one is missing."""
    for entry in notebook.reads:
        origin, copy = source.find(entry), target.find(entry)
        if (wanted := ledger.digest(origin)) is None:
            raise WrongUse(
                f"{notebook.name} reads {paths.shown(origin)}, which is not there; run the notebooks before it"
            )
        if ledger.digest(copy) == wanted:
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(origin, copy)
        else:
            shutil.copy2(origin, copy)
        if ledger.digest(copy) != wanted:
            raise WrongUse(
                f"{paths.shown(origin)} changed while it was copied; wait until bpo run ends, then run again"
            )
