"""`bpo submit`: a run as a chain of Slurm jobs, or a grid as an array."""

import argparse
from pathlib import Path
from typing import Any

from bpo_utils import paths

STARTS = ("data", "train", "infer", "judge", "figure")


def add_commands(commands: Any) -> None:
    """`bpo submit`."""
    submit = commands.add_parser("submit", help="submit a run to Slurm: data, train, infer, judge, figure in a chain")
    which = submit.add_mutually_exclusive_group(required=True)
    which.add_argument("--profile", metavar="NAME", help="a profile with launch: slurm, such as paper")
    which.add_argument("--grid", type=Path, metavar="FILE", help="a grid instead, one task of an array per point")
    submit.add_argument("--from", dest="start", choices=STARTS, default="data", help="the first stage (default: data)")
    submit.add_argument(
        "--nodes", type=_positive, metavar="N", help="nodes of the training (default: as many as it fills)"
    )
    submit.add_argument("--shards", type=_positive, default=4, metavar="K", help="tasks of each array (default: 4)")
    submit.add_argument(
        "--max-usd", type=float, default=0.0, metavar="X", help="what all shards together may spend (default: 0)"
    )
    submit.add_argument("--dry-run", action="store_true", help="show the exact commands, and submit nothing")


def submit(arguments: argparse.Namespace) -> int:
    """`bpo submit`; returns 0. Raises WrongUse, and OSError with Slurm's own words if it refuses a job."""
    from bpo_utils import submit as slurm
    from bpo_utils.notebook import WrongUse

    try:
        chosen, wrong = _chosen(arguments)
    except ValueError as error:
        raise WrongUse(str(error)) from error
    if arguments.dry_run:
        print("\n".join([slurm.script(chosen), *(f"# it would be refused: {problem}" for problem in wrong)]))
        return 0
    if wrong:
        raise WrongUse("\n  ".join(["nothing was submitted:", *wrong]))
    _tell(chosen, slurm.submit(chosen))
    return 0


def _chosen(arguments: argparse.Namespace) -> tuple[list[Any], list[str]]:
    """(the jobs, what stands in their way)."""
    from bpo_utils import profile
    from bpo_utils import submit as slurm

    if arguments.grid:
        from bpo_utils import grid

        loaded = grid.load(arguments.grid)
        return [slurm.grid_job(arguments.grid.resolve(), len(loaded.points), loaded.profile.name, slurm.site())], []
    run = profile.load(arguments.profile)
    wrong = slurm.problems(run, arguments.start, arguments.shards)
    choice = {"start": arguments.start, "nodes": arguments.nodes, "shards": arguments.shards}
    return slurm.jobs(run, slurm.site(), **choice, max_usd=arguments.max_usd), wrong


def _tell(chosen: list[Any], ids: list[str]) -> None:
    from bpo_utils.progress import columns

    by_step = dict(zip([job.step for job in chosen], ids, strict=True))
    rows = [[job.name, by_step[job.step], by_step.get(job.after, "-")] for job in chosen]
    print(columns([["job", "id", "after"], *rows]))
    print(f"\nsqueue --me shows them; what they print goes into {paths.shown(chosen[0].logs)}/")
    if "train" in by_step:
        stop = paths.run_dir(chosen[0].run) / "03_training" / "STOP"
        print(f"To stop the training after a checkpoint: touch {paths.shown(stop)}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
