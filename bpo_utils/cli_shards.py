"""`bpo shard`: one task of a Slurm array does its share of inference or judging; and how far the shards are."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpo_utils import paths

if TYPE_CHECKING:  # what it imports is not for `bpo --help` to wait for
    from bpo_utils.profile import Profile

KINDS = ("rewrites", "answers", "verdicts")
ARRAY = "SLURM_ARRAY_TASK_"


def add_commands(commands: Any) -> None:
    """`bpo shard`."""
    shard = commands.add_parser("shard", help="do one share of inference or judging, as a task of a Slurm array")
    shard.add_argument(
        "what", choices=(*KINDS, "status", "merge"), help="merge: import the calls of all shards into the run's store"
    )
    shard.add_argument("--profile", default="mini", metavar="NAME", help="whose run (default: mini)")
    shard.add_argument("--shard", metavar="I", help=f"which share, from 0; slurm: {ARRAY}ID")
    shard.add_argument("--of", metavar="N", help=f"how many shares; slurm: {ARRAY}COUNT, for a whole array from 0")
    shard.add_argument(
        "--max-usd", type=float, default=0.0, metavar="X", help="what this one shard may spend (default: 0, free calls)"
    )
    shard.add_argument(
        "--store-dir", type=Path, metavar="DIR", help="a local folder for the calls, if the run is on a network disk"
    )


def shard(arguments: argparse.Namespace) -> int:
    """`bpo shard`; returns 0 if the shard is complete, 3 at the cap, 1 if calls failed. Raises WrongUse."""
    from bpo_utils import profile, shards
    from bpo_utils.chat import errors
    from bpo_utils.notebook import WrongUse

    try:
        run = profile.load(arguments.profile)
        if arguments.what == "status":
            print(_status(run))
        elif arguments.what == "merge":
            new, files, usd = shards.merge_calls(run)
            print(f"{new} calls are new in the run's store, from {files} shards, which spent at most ${usd:.4f}")
        else:
            number, of = numbers(arguments.shard, arguments.of)
            if not arguments.max_usd >= 0:
                raise WrongUse(f"--max-usd {arguments.max_usd}: not an amount of US dollars")
            calls = shards.calls_of(run, number, of, arguments.max_usd, arguments.store_dir)
            shards.work(run, arguments.what, number, of, calls, _tell)
    except errors.Unfinished as error:
        print(f"bpo: {error}", file=sys.stderr)
        return 3 if isinstance(error, errors.BudgetReached) else 1
    except ValueError as error:
        raise WrongUse(str(error)) from error
    return 0


def numbers(shard: str | None, of: str | None) -> tuple[int, int]:
    """(I, N) of `--shard I --of N`, where each may be `slurm`. Raises WrongUse that says what is wrong."""
    from bpo_utils.notebook import WrongUse

    if shard is None or of is None:
        raise WrongUse("name the shard: --shard I --of N, with I from 0, or slurm for both in an array job")
    index, count = _number("--shard", shard, "ID"), _number("--of", of, "COUNT")
    # A later array of single tasks (--array=2) counts only itself, and would share the work anew.
    last = os.environ.get(f"{ARRAY}MAX", str(count - 1))
    if of == "slurm" and last != str(count - 1):
        raise WrongUse(f"--of slurm: an array of {count} tasks up to number {last} is not whole; write --of N instead")
    if not index < count:
        raise WrongUse(f"--shard {index} --of {count}: shards count from 0 to {count - 1}")
    return index, count


def _number(option: str, text: str, variable: str) -> int:
    from bpo_utils.notebook import WrongUse

    value = os.environ.get(f"{ARRAY}{variable}", "") if text == "slurm" else text
    if not value.isdecimal():
        unset = f"{ARRAY}{variable} is not set; is this an array job?"
        raise WrongUse(f"{option} {text}: {unset if text == 'slurm' else 'a number, or slurm'}")
    return int(value)


def _status(run: Profile) -> str:
    """Each shard, how far it is; whether its inputs are still the same is asked when it is used."""
    from bpo_utils import shard_files, shards
    from bpo_utils.progress import columns

    table = [["kind", "shard", "rows", "state"]]
    for kind in KINDS:
        folder = paths.run_dir(run.name) / shards.KINDS[kind][0] / "shards"
        for of, files in sorted(shard_files.found(folder, kind).items()):
            for number in range(of):
                rows, state = "-", "missing"
                if number in files:
                    content = shard_files.read(files[number])
                    rows = f"{sum(map(len, content.blocks))} of {content.header['rows']}"
                    state = "complete" if content.complete else "not complete"
                table.append([kind, f"{number} of {of}", rows, state])
    return columns(table) if len(table) > 1 else f"no shards in {paths.shown(paths.run_dir(run.name))}"


def _tell(text: str) -> None:
    print(text, flush=True)  # a job's log is read while it runs
