"""The command `bpo`: run, status, grid, doctor, rewrite, search, plan, submit, shard, report, calls, judgments.

Exit codes: 0 ok, 1 a notebook failed, 2 wrong use, 3 the budget's cap was reached, 130 Ctrl-C.
"""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path

from bpo_utils import cli_calls, cli_report, cli_rewrite, cli_search, cli_shards, cli_submit, cli_train, paths


def parser() -> argparse.ArgumentParser:
    """The command line of `bpo`."""
    top = argparse.ArgumentParser(prog="bpo", description="Run the course notebooks and see where they stand.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the notebooks of a profile; those that are up to date are skipped")
    run.add_argument("--profile", default="mini", metavar="NAME", help="a name in bpo_utils/profiles (default: mini)")
    which = run.add_mutually_exclusive_group()
    which.add_argument("--from", dest="start", metavar="NN", help="begin with this notebook, such as 03")
    which.add_argument("--only", metavar="NN", help="run this notebook only")
    run.add_argument("--all", action="store_true", help="the further experiments too (07 and up)")
    run.add_argument("--force", action="store_true", help="run the chosen notebooks even if they are up to date")
    cli_calls.add_options(run)
    run.add_argument("-p", dest="given", action="append", default=[], metavar="NAME=VALUE", help="set a parameter")
    status = commands.add_parser("status", help="what has run, and what would run next and why")
    status.add_argument(
        "--profile", default="mini", metavar="NAME", help="a name in bpo_utils/profiles (default: mini)"
    )
    grid = commands.add_parser("grid", help="run one notebook for every combination of some parameters")
    grid.add_argument("file", type=Path, metavar="GRID.yaml", help="name, notebook, profile and lists of parameters")
    grid.add_argument("--jobs", type=int, metavar="N", help="points at a time (default: half of the cores)")
    grid.add_argument("--task", metavar="I", help="run point I only, from 0; slurm: take I from SLURM_ARRAY_TASK_ID")
    commands.add_parser("doctor", help="what this machine has, and what each profile can do on it")
    for part in (cli_rewrite, cli_search, cli_train, cli_submit, cli_shards, cli_report):
        part.add_commands(commands)
    for command in cli_calls.add_commands(commands):
        command.add_argument("--profile", default="mini", metavar="NAME", help="whose run (default: mini)")
    for command in (run, status, grid):
        command.add_argument(
            "--notebooks", type=Path, default=paths.NOTEBOOKS, metavar="DIR", help="folder of the notebooks"
        )
    return top


def main(argv: list[str] | None = None) -> int:
    """Carry out one command; returns the exit code."""
    arguments = parser().parse_args(argv)
    from bpo_utils.notebook import WrongUse
    from bpo_utils.progress import Unreadable

    # A scheduler that stops a job sends SIGTERM; the ledger shall say interrupted then, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = {"run": _run, "status": _status, "grid": _grid, "doctor": _doctor}
    command |= {"plan": cli_train.plan, "submit": cli_submit.submit, "shard": cli_shards.shard}
    command |= {"rewrite": cli_rewrite.rewrite, "search": cli_search.search, "report": cli_report.report}
    command |= {"calls": cli_calls.calls, "judgments": cli_calls.judgments}
    try:
        return command[arguments.command](arguments)
    except WrongUse as error:
        print(f"bpo: {error}", file=sys.stderr)
        return 2
    except (OSError, Unreadable) as error:
        print(f"bpo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bpo: interrupted", file=sys.stderr)
        return 130


def _profile(name: str):
    from bpo_utils import profile
    from bpo_utils.notebook import WrongUse

    try:
        return profile.load(name)
    except ValueError as error:
        raise WrongUse(str(error)) from error


def _run(arguments: argparse.Namespace) -> int:
    from bpo_utils import runner
    from bpo_utils.notebook import WrongUse, parse_value

    given = {}
    resume = ["bpo", "run", "--profile", arguments.profile]
    resume += ["--calls", arguments.calls] if arguments.calls != "online" else []
    resume += ["--all"] if arguments.all else []
    if arguments.notebooks != paths.NOTEBOOKS:
        resume += ["--notebooks", str(arguments.notebooks)]
    for pair in arguments.given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise WrongUse(f"-p {pair}: write it as -p name=value")
        given[name] = parse_value(text)
        resume += ["-p", pair]
    profile = _profile(arguments.profile)
    if arguments.dry_run:
        return cli_calls.dry_run(profile, arguments)
    states = runner.run(
        profile,
        start=arguments.start,
        only=arguments.only,
        further=arguments.all,
        force=arguments.force,
        parameters=given,
        notebooks_dir=arguments.notebooks.resolve(),
        resume=shlex.join(resume),
        before=cli_calls.agreed(profile, arguments),
    )
    if all(state in runner.GOOD for state in states.values()):
        return 0
    return 3 if runner.reached_the_cap(profile.name, states) else 1


def _status(arguments: argparse.Namespace) -> int:
    from bpo_utils import ledger, notebook, progress, runner

    profile = _profile(arguments.profile)
    place = runner.place_of(profile.name)
    entries, held = ledger.latest(place.run), ledger.is_held(place.run)
    rows = [["notebook", "last run", "at (UTC)", "took", "next run"]]
    for each in notebook.find(arguments.notebooks.resolve()):
        if each.number not in (*profile.notebooks, *profile.further):
            continue
        entry = entries.get(each.name)
        why = runner.why_run(each, each.values({"profile": profile.name}), place)
        if entry is None:
            rows.append([each.name, "-", "-", "-", why])
            continue
        # A line that says running while nobody holds the folder belongs to a runner that died.
        state = "interrupted" if entry.status == "running" and not held else entry.status
        took = progress.duration(entry.seconds) if entry.seconds is not None else "-"
        why = why.replace("last run: running", f"last run: {state}") if state != "running" else "running now"
        rows.append([each.name, state, entry.started[:19], took, why or runner.UP_TO_DATE])
    print(progress.columns(rows))
    if profile.stops_because:
        print(f"\n{profile.stops_because}")
    return 0


def _grid(arguments: argparse.Namespace) -> int:
    from bpo_utils import grid, runner
    from bpo_utils.notebook import WrongUse

    folder = arguments.notebooks.resolve()
    loaded = grid.load(arguments.file, folder)
    if arguments.task is None:
        jobs = max(1, (os.cpu_count() or 1) // 2) if arguments.jobs is None else arguments.jobs
        if jobs < 1:
            raise WrongUse(f"--jobs {jobs}: at least 1")
        return grid.run_all(loaded, jobs, folder)
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "") if arguments.task == "slurm" else arguments.task
    if not task.isdecimal():
        told = "SLURM_ARRAY_TASK_ID is not set; is this an array job?" if not task else "a number from 0, or slurm"
        raise WrongUse(f"--task {arguments.task}: {told}")
    return 0 if grid.run_point(loaded, int(task)) in runner.GOOD else 1


def _doctor(arguments: argparse.Namespace) -> int:
    from bpo_utils import doctor

    print(doctor.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
