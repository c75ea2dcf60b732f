"""`bpo plan`: what the training of a profile will take, and whether it fits, before anything is submitted."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_commands(commands: Any) -> None:
    """`bpo plan`."""
    plan = commands.add_parser("plan", help="what a training will take: memory, disk, time; and how to submit it")
    plan.add_argument("--profile", default="mini", metavar="NAME", help="whose training (default: mini)")
    plan.add_argument("--gpu", metavar="KIND", help="such as a800-80, a100-40, h200, rtx4090 (default: this machine's)")
    plan.add_argument("--gpus", type=_count, metavar="N", help="GPUs of one node (default: the profile's processes)")
    plan.add_argument("--nodes", type=_count, default=1, metavar="N", help="nodes (default: 1)")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")


def plan(arguments: argparse.Namespace) -> int:
    """`bpo plan`; returns 0, whether it fits or not. Raises WrongUse for what cannot be planned."""
    from bpo_utils import profile
    from bpo_utils.notebook import WrongUse
    from bpo_utils.training import plan as planning

    try:
        run = profile.load(arguments.profile)
        made = planning.make(run, gpu=arguments.gpu, gpus=arguments.gpus, nodes=arguments.nodes)
    except ValueError as error:
        raise WrongUse(str(error)) from error
    print(json.dumps(made, indent=2, allow_nan=False) if arguments.json else planning.text(made))
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a number from 1")
    return int(text)
