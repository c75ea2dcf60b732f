"""`bpo search`: one automatic prompt search, from its plan to its test."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpo_utils import cli_calls, paths

if TYPE_CHECKING:  # what they import is not for `bpo --help` to wait for
    from bpo_utils.chat import Calls
    from bpo_utils.profile import Model, Profile, Searching
    from bpo_utils.search.task import Task

MODES = ("online", "replay")
STORE = "calls.sqlite"  # in 09_search of the run: all searches of a profile share what was answered
SECTION = ("instruction", "position", "form", "answer_tokens", "contained", "tries")  # what --set can change there
ROWS = ("train", "dev", "test", "draw")


def add_commands(commands: Any) -> None:
    """`bpo search`."""
    search = commands.add_parser(
        "search",
        help="search an instruction for a task with one method: opro, protegi, ape ...",
        description="Search an instruction for a task. A search that was stopped goes on when it is run again.",
    )
    search.add_argument("method", metavar="METHOD", help="a name in bpo_utils/search/methods, such as opro or seed")
    search.add_argument(
        "--task", metavar="T", help="instruction, landscape, bbh/NAME, liar, gsm8k (default: the profile's)"
    )
    search.add_argument("--budget", type=int, metavar="N", help="target calls (default: the profile's smallest)")
    search.add_argument("--profile", default="mini", metavar="NAME", help="whose section `searching` (default: mini)")
    search.add_argument("--seed", type=int, metavar="S", help="what is drawn (default: the profile's first)")
    search.add_argument(
        "--set", dest="given", action="append", default=[], metavar="KEY=VALUE",
        help="a setting of the method; or instruction, position, form, answer_tokens, contained, tries, train, dev, "
        "test, draw of the section",
    )  # fmt: skip
    search.add_argument("--calls", choices=MODES, default="online", help="replay: from the store, without a key")
    search.add_argument(
        "--max-usd", type=cli_calls._dollars, metavar="X",
        help="what all searches of the profile may spend together; at the cap: exit code 3",
    )  # fmt: skip
    search.add_argument("--yes", action="store_true", help="do not ask before calls that cost money")
    search.add_argument("--dry-run", action="store_true", help="show the plan, and do nothing")
    search.add_argument("--json", action="store_true", help="the result as one line of JSON on standard output")


def search(arguments: argparse.Namespace) -> int:
    """`bpo search`; returns 0, 1 if calls have no answer, 3 at the cap. Raises WrongUse."""
    from bpo_utils.chat import errors
    from bpo_utils.notebook import WrongUse

    try:
        return _search(arguments)
    except errors.BudgetReached as error:
        print(f"bpo: {error}", file=sys.stderr)
        return 3
    except errors.Unfinished as error:
        print(f"bpo: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        raise WrongUse(str(error)) from error


def _search(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from bpo_utils import profile
    from bpo_utils.search import run, tasks
    from bpo_utils.search.state import Roles

    out = sys.stderr if arguments.json else sys.stdout
    chosen = profile.load(arguments.profile)
    searching, changed = _section(chosen, arguments)
    budget, seed = _budget(searching, arguments.budget), _seed(searching, arguments.seed)
    folder = run.folder_of(chosen.name, searching.task, arguments.method, budget, seed, changed)
    task = tasks.of(searching)
    calls, searching, told = _calls(chosen, searching, arguments)
    text, cap, free = _plan(searching, task, arguments, budget, calls)
    if arguments.dry_run or not free:  # else the search itself says what it can take
        print("\n\n".join(part for part in (told, text) if part), file=out)
    if arguments.dry_run:
        return 0
    if not free and arguments.calls != "replay" and not (folder / "result.json").is_file():
        with contextlib.redirect_stdout(out):
            cli_calls._ask(cap, arguments)
    roles = Roles(searching.target, searching.optimizer, replace(calls, max_usd=math.inf if free else cap))

    def tell(line: str) -> None:
        print(line, file=out)

    result = run.search(searching, task, roles, arguments.method, budget, seed, folder, tell, curve=free)
    shown = _numbers(result) | {"folder": str(folder)}
    print(json.dumps(result | shown, ensure_ascii=False) if arguments.json else _shown(result, shown, folder))
    return 0


def _section(run: Profile, arguments: argparse.Namespace) -> tuple[Searching, str]:
    """(the profile's section as the command line changes it, a short name for the changes). Raises ValueError."""
    from bpo_utils.profile import Model, Searching
    from bpo_utils.search import methods
    from bpo_utils.search.state import digest

    if run.searching is None:
        raise ValueError(
            f"profile {run.name} has no section `searching`, which says what is searched on and with which models; "
            "take another one, such as mini (offline) or paper, or write the section into a profile of your own"
        )
    values, settings = run.searching.model_dump(), {}
    values["task"] = arguments.task or values["task"]
    known = methods.find(arguments.method).Settings.model_fields
    for name, value in _given(arguments.given).items():
        place = settings if name in known else values["rows"] if name in ROWS else values if name in SECTION else None
        if place is None:
            from bpo_utils.notebook import nearest

            every = [*known, *SECTION, *ROWS]
            raise ValueError(f"--set {name}: no such setting{nearest(name, every)}; there are {', '.join(every)}")
        place[name] = value
    values["settings"] = values["settings"] | {
        arguments.method: values["settings"].get(arguments.method, {}) | settings
    }
    searching = Searching.model_validate(values)
    if searching.task == "landscape" != run.searching.task:  # its target is no model, but a function of its own
        target = Model(name="landscape", provider="landscape", model="landscape")
        searching = searching.model_copy(update={"target": target})
    _programs(searching)
    if searching.optimizer.provider == "program":
        vocabulary = "phrases" if searching.task == "landscape" else "facets"
        program = searching.optimizer.model_copy(update={"model": vocabulary})
        searching = searching.model_copy(update={"optimizer": program})
    return searching, digest(arguments.given)[:8] if arguments.given else ""


def _programs(searching: Searching) -> None:
    """Raises ValueError where the miniature's stand-ins are given a task that they know nothing of."""
    from bpo_utils.search import real_tasks

    if searching.task in ("instruction", "landscape"):
        return
    real_tasks.known(searching.task)
    for role, model in (("optimizer", searching.optimizer), ("target", searching.target)):
        if model.provider in ("program", "landscape", "mini"):
            raise ValueError(
                f"task {searching.task}: the {role} of this profile is {model.name}, which knows the miniature only; "
                "take a profile with models for it, such as paper"
            )


def _given(pairs: list[str]) -> dict[str, object]:
    from bpo_utils.notebook import parse_value

    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {pair}: write it as --set name=value")
        found[name] = parse_value(text)
    return found


def _budget(searching: Searching, given: int | None) -> int:
    if given is not None and given < 1:
        raise ValueError(f"--budget {given}: at least 1 target call")
    return min(searching.budgets) if given is None else given


def _seed(searching: Searching, given: int | None) -> int:
    return searching.seeds[0] if given is None else given


def _calls(run: Profile, searching: Searching, arguments: argparse.Namespace) -> tuple[Calls, Searching, str]:
    """(how calls are made, the section with models that are still served, what was found in a sentence)."""
    from bpo_utils.chat import Calls, served
    from bpo_utils.search import programs

    store = paths.stage_dir(run.name, "09_search") / STORE
    calls = Calls(store, arguments.calls, limits=run.limits, recover=run.store_completions)
    placed, told = {}, {}
    for role, model in (("target", searching.target), ("optimizer", searching.optimizer)):
        if model.provider not in programs.PROGRAMS:  # one at a time: both roles may be one model's
            found, said = served.resolve(run.model_copy(update={"answer_models": [model], "judges": []}), calls)
            placed[role] = found.answer_models[0]
            told[said] = None
    return calls, searching.model_copy(update=placed), "; ".join(told)


def _plan(
    searching: Searching, task: Task, arguments: argparse.Namespace, budget: int, calls: Calls
) -> tuple[str, float, bool]:
    """(the plan as text, the cap in US dollars, whether nothing costs anything)."""
    from bpo_utils import bill
    from bpo_utils.chat import money
    from bpo_utils.search import cost, run

    settings = run.settings_of(searching, arguments.method, task, budget)
    most, after = run.planned(arguments.method, settings, task, budget), run.measured_at_most(task)
    _refuse(searching.target, task)
    lines, spent = cost.lines(searching, task, most, after), bill.spent(calls)
    told = f"{arguments.method} on {task.name}: {most.said(budget, searching.tries)}; at most {after:,} target calls "
    told += "more look at the dev and test rows at the end."
    free = money.total(lines, "worst") == 0.0
    if not free:
        told += f"\n\n{money.table(lines)}\n\nSpent so far: ${spent:.4f}. What is in the store costs nothing again. "
        told += "The amounts are estimates; the cap is exact."
    cap = bill.default_cap(lines, spent) if arguments.max_usd is None else arguments.max_usd
    return told, cap, free


def _refuse(target: Model, task: Task) -> None:
    """Raises ValueError, before anything is asked, if the target cannot be given the start of an answer."""
    from bpo_utils.chat import wire
    from bpo_utils.search.task import prompt

    text, start = prompt(task, "x", task.dev[0].input)
    if start:
        wire.body(wire.Request(target, text, answer_start=start))


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    """Test scores with 95 % intervals, and the paired difference to the first instruction, as fractions."""
    from bpo_utils.search import statistics

    rows = sorted(result["scores"])
    ours, first = ([result[name][row] for row in rows] for name in ("scores", "seed_scores"))
    found = {"n": len(rows)}
    for name, other in (("test", [0.0] * len(rows)), ("difference", first)):
        apart = statistics.difference([ours], [other])
        found |= {name: apart.mean, f"{name}_low": apart.low, f"{name}_high": apart.high}
    return found | {"seed_test": sum(first) / len(first)}


def _shown(result: dict[str, Any], shown: dict[str, Any], folder: Path) -> str:
    used, planned = result["counts"], result["planned"]
    rows = [
        f"\n{result['best']['text']}" + (f"\n\n{result['best']['demo']}" if result["best"]["demo"] else ""),
        f"\ndev   {result['dev']:.3f} (first instruction {result['seed_dev']:.3f})",
        f"test  {shown['test']:.3f} (95 %: {shown['test_low']:.3f} to {shown['test_high']:.3f}, {shown['n']} rows; "
        f"first instruction {shown['seed_test']:.3f})",
        f"gain  {shown['difference']:+.3f} (95 %: {shown['difference_low']:+.3f} to {shown['difference_high']:+.3f}, "
        "paired)",
        f"calls target {used['target_calls']:,} of {planned['target']:,} planned, optimizer "
        f"{used['optimizer_calls']:,} of {planned['optimizer']:,}, {used['measured']:,} after the search; "
        f"{used['cached']:,} were in the store; ${used['usd']:.4f}",
        f"not readable: {used['unreadable']:,} answers, {used['bad_replies']:,} replies of the optimizer; "
        f"{used['duplicates']:,} proposals were known",
        f"{paths.shown(folder)}: candidates.jsonl, scores.jsonl, state.json, result.json",
    ]
    return "\n".join(rows)
