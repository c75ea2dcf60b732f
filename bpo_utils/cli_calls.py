"""The parts of `bpo` that have to do with calls to models: what they cost, their store, and the pages of judgments."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpo_utils import paths

if TYPE_CHECKING:  # what they import is not for `bpo --help` to wait for
    from bpo_utils.chat import Calls
    from bpo_utils.judgments import Run
    from bpo_utils.notebook import Notebook
    from bpo_utils.profile import Profile

STORES = {  # of the notebooks that make calls: teacher; answer models and judges; all of these once more; searches
    "02": Path("02_pairs/calls.sqlite"),
    "05": Path("05_judging/calls.sqlite"),
    "07": Path("07_iterate/calls.sqlite"),
    "09": Path("09_search/calls.sqlite"),
}
STAGES = tuple(STORES)
PLANNED = ("02", "05")  # what notebook 07 asks depends on rewriters that it trains first: it shows the price itself
MODES = ("online", "batch", "replay")


def add_options(run: argparse.ArgumentParser) -> None:
    """The options of `bpo run` that have to do with money."""
    run.add_argument(
        "--calls", choices=MODES, default="online", help="batch: half the price, within a day; replay: no key"
    )
    run.add_argument(
        "--max-usd", type=_dollars, metavar="X", help="what the run may spend in all; at the cap: exit code 3"
    )
    run.add_argument("--yes", action="store_true", help="do not ask before calls that cost money")
    run.add_argument("--dry-run", action="store_true", help="show what the calls will cost, and do nothing")


def add_commands(commands: Any) -> list[argparse.ArgumentParser]:
    """`bpo calls` and `bpo judgments`; returns those that take --profile."""
    calls = commands.add_parser("calls", help="the store of calls: what it holds; export, import, salvage")
    calls.add_argument("action", choices=("status", "export", "import", "salvage"))
    calls.add_argument("file", nargs="?", type=Path, metavar="FILE", help="JSON Lines to write or to read")
    calls.add_argument("--stage", choices=STAGES, default="05", help="whose store: notebook 02 (teacher), 05, 07, 09")
    calls.add_argument("--store", type=Path, metavar="FILE", help="a store that lies elsewhere")
    pages = commands.add_parser("judgments", help="a page of all judgments to filter and read; pairs to label by hand")
    pages.add_argument("--rewriters", default="bpo", metavar="NAMES", help="names with commas, or all (default: bpo)")
    pages.add_argument("--to", type=Path, metavar="FILE", help="where the page goes (default: the run's 05_judging)")
    what = pages.add_mutually_exclusive_group()
    what.add_argument("--label-pairs", type=int, metavar="N", help="instead: a page of N blind pairs to label by hand")
    what.add_argument("--labels", type=Path, metavar="FILE", help="instead: how far the judges agree with saved labels")
    pages.add_argument("--seed", type=int, default=0, metavar="N", help="which pairs are drawn (default: 0)")
    return [calls, pages]


def agreed(run: Profile, arguments: argparse.Namespace) -> Callable[[Notebook], dict[str, object]]:
    """What `bpo run` does before a notebook: before the one that makes calls, show their price and ask.

    Returns the parameters to give it. Raises WrongUse where nobody can answer the question, or the answer is no.
    """

    def before(notebook: Notebook) -> dict[str, object]:
        if "max_usd" not in notebook.parameters or notebook.number not in _stages(run):
            return {}
        from bpo_utils import bill
        from bpo_utils.chat import money

        if notebook.number in PLANNED:
            text, lines, spent = plan(run, arguments.calls, notebook.number)
            cap, free = bill.default_cap(lines, spent), money.total(lines, "worst") == 0.0
        else:
            text, cap, free = _unplanned(notebook.number), 0.0, arguments.max_usd is None
        if arguments.max_usd is not None:  # for the whole run: what the other notebooks have spent is gone
            elsewhere = [_calls(run, stage, "online") for stage in STAGES if stage != notebook.number]
            cap = max(0.0, arguments.max_usd - sum(map(bill.spent, elsewhere)))
        if not free and arguments.calls != "replay":
            print(text)
            _ask(cap, arguments)
        return {"max_usd": cap, "calls": arguments.calls}

    return before


def plan(run: Profile, mode: str, stage: str = "05") -> tuple[str, list[Any], float]:
    """(the plan as text, its lines, US dollars spent so far) of the calls of one notebook, 02 or 05.

    Raises WrongUse if the files that it would read are missing, if it makes no calls, or for notebook 07.
    """
    if stage not in PLANNED:
        from bpo_utils.notebook import WrongUse

        raise WrongUse(_unplanned(stage))
    return _teaching(run, mode) if stage == "02" else _judging(run, mode)


def _calls(run: Profile, stage: str, mode: str) -> Calls:
    from bpo_utils.chat import Calls

    return Calls(paths.run_dir(run.name) / STORES[stage], mode, limits=run.limits)


def _teaching(run: Profile, mode: str) -> tuple[str, list[Any], float]:
    from bpo_utils import bill, filters, records
    from bpo_utils.chat import money, served
    from bpo_utils.notebook import WrongUse

    folder, calls = paths.run_dir(run.name), _calls(run, "02", mode)
    try:
        files = [folder / "01_data" / f"{name}.jsonl" for name in ("train", "validation")]
        # each by itself, as notebook 02 does: a validation row is not dropped for being like a training row
        parts = [filters.before(records.read_rows(file, records.Preference), run.filters)[0] for file in files]
        model, found = served.resolve_teacher(run, calls)
    except FileNotFoundError as error:
        raise WrongUse(f"the plan needs the preference rows: {error}") from error
    except ValueError as error:
        raise WrongUse(str(error)) from error
    lines, spent = bill.teaching(run, [row for part in parts for row in part], model, calls), bill.spent(calls)
    told = f"{found}\n\n{money.table(lines)}\n\nSpent so far: ${spent:.4f}. "
    return told + "Unreadable replies are asked for again, which is not foreseen here.", lines, spent


def _judging(run: Profile, mode: str) -> tuple[str, list[Any], float]:
    from bpo_utils import bill, records
    from bpo_utils.chat import money, served
    from bpo_utils.notebook import WrongUse

    folder, calls = paths.run_dir(run.name), _calls(run, "05", mode)
    if not run.answering or not (run.answer_models or run.judges):
        raise WrongUse(f"profile {run.name} makes no calls")
    try:
        rewrites = records.read_rows(folder / "04_inference" / "rewrites.jsonl", records.Rewrite)
        sets = dict.fromkeys(row.test_set for row in rewrites)
        files = [folder / "01_data" / "test" / f"{name}.jsonl" for name in sets]
        prompts = [row for file in files for row in records.read_rows(file, records.TestPrompt)]
    except FileNotFoundError as error:
        raise WrongUse(f"the plan needs the rewritten prompts: {error}") from error
    try:
        resolved, found = served.resolve(run, calls)
    except ValueError as error:
        raise WrongUse(str(error)) from error
    lines, spent = bill.costs(resolved, prompts, rewrites, calls), bill.spent(calls)
    told = f"{found}\n\n{money.table(lines)}\n\nSpent so far: ${spent:.4f}. "
    told += "Judging is an estimate until the answers are there."
    return told, lines, spent


def dry_run(run: Profile, arguments: argparse.Namespace) -> int:
    """`bpo run --dry-run`, for the notebook of --only, else for the one with most calls."""
    stages = [stage for stage in _stages(run) if stage in PLANNED]
    chosen = arguments.only.zfill(2) if arguments.only else (stages[-1] if stages else PLANNED[-1])
    print(plan(run, arguments.calls, chosen)[0])
    return 0


def calls(arguments: argparse.Namespace) -> int:
    """`bpo calls`."""
    from bpo_utils.chat import exchange
    from bpo_utils.chat.store import Store
    from bpo_utils.notebook import WrongUse

    store = arguments.store or paths.run_dir(arguments.profile) / STORES[arguments.stage]
    if arguments.action != "status" and arguments.file is None:
        raise WrongUse(f"bpo calls {arguments.action} needs a FILE")
    if arguments.action != "import" and not store.exists():
        raise WrongUse(f"{paths.shown(store)} does not exist; name another with --store")
    if arguments.action == "salvage":
        saved, lost = exchange.salvage(store, arguments.file)
        print(f"{saved} calls written to {paths.shown(arguments.file)}; {lost} rows could not be read")
        return 0
    with Store(store) as opened:
        if arguments.action == "export":
            print(f"{exchange.export(opened, arguments.file)} calls written to {paths.shown(arguments.file)}")
        elif arguments.action == "import":
            print(f"{exchange.load(opened, arguments.file)} calls are new in {paths.shown(store)}")
        else:
            print(_status(opened))
    return 0


def judgments(arguments: argparse.Namespace) -> int:
    """`bpo judgments`."""
    from bpo_utils import judge, labelling, profile
    from bpo_utils import judgments as pages
    from bpo_utils.notebook import WrongUse

    try:
        label, folder = profile.load(arguments.profile).label, paths.run_dir(arguments.profile)
        run = pages.read_run(folder)
        if arguments.labels:
            print(_agreement(labelling.read(arguments.labels, run.answers, run.verdicts), run))
            return 0
        if arguments.label_pairs is not None:
            target = arguments.to or folder / "05_judging" / "labelling.html"
            labelling.page(label, run.answers, run.verdicts, target, arguments.label_pairs, arguments.seed)
        else:
            target = arguments.to or folder / "05_judging" / "judgments.html"
            flagged = [(row.test_set, row.id, row.side, row.model) for row in judge.flagged(run.answers)]
            chosen = None if arguments.rewriters == "all" else arguments.rewriters.split(",")
            pages.page(label, *run, target, flagged, chosen)
    except ValueError as error:
        raise WrongUse(str(error)) from error
    print(f"{paths.shown(target)}: open it in a browser")
    return 0


def _agreement(labels: list[dict[str, str]], run: Run) -> str:
    """How far each judge agrees with people, as a table; all labels of a file are on one rewriter."""
    from bpo_utils import agreement, progress

    verdicts = [row for row in run.verdicts if row.rewriter == labels[0]["rewriter"]]
    shown = ["judge", "n", "agreement", "kappa", "kappa_low", "kappa_high", "ac1"]
    shown += ["judge_net_win", "human_net_win", "ppi_net_win", "ppi_low", "ppi_high"]
    found = [[row[name] for name in shown] for row in agreement.human_agreement(labels, verdicts, run.answers)]
    cells = [[f"{v:.3f}" if isinstance(v, float) else "-" if v is None else str(v) for v in row] for row in found]
    return progress.columns([shown, *cells], right_from=1)


def _stages(run: Profile) -> list[str]:
    """The notebooks of a profile that send something to a model outside the miniature."""
    asked = [*run.answer_models, *run.judges]
    models = {"02": [run.teacher.as_model], "05": asked, "07": asked if "07" in run.further else []}
    searched = run.searching if "09" in run.further else None
    models["09"] = [searched.target, searched.optimizer] if searched else []
    inside = ("mini", "recorded", "program", "landscape")
    return [stage for stage in STAGES if any(model.provider not in inside for model in models[stage])]


def _unplanned(stage: str) -> str:
    return (
        f"What notebook {stage} asks depends on what it makes and hears first, so its price is not known yet: "
        "it prints it before the first call, and without --max-usd sends nothing that costs money."
    )


def _ask(cap: float, arguments: argparse.Namespace) -> None:
    from bpo_utils.notebook import WrongUse

    limit = "without a cap, for a price is unknown" if math.isinf(cap) else f"and spend at most ${cap:.2f} in all"
    if arguments.yes:
        print(f"--yes: making the calls {limit}")
        return
    if not sys.stdin.isatty():
        raise WrongUse("these calls cost money and nobody is here to be asked; add --yes, and --max-usd X for a cap")
    if input(f"Make these calls {limit}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise WrongUse("nothing was sent")


def _status(store: Any) -> str:
    from bpo_utils.progress import columns

    query = (
        "SELECT provider, call.model, count(answer.key), count(outcome.key), count(*) FROM call"
        " LEFT JOIN answer USING(key) LEFT JOIN outcome USING(key) GROUP BY 1, 2 ORDER BY 1, 2"
    )
    rows = [[str(value) for value in row] for row in store.db.execute(query)]
    told = columns([["provider", "model", "answers", "refused or empty", "calls"], *rows], right_from=2)
    lost = store.db.execute("SELECT count(*) FROM attempt WHERE state IN ('sent', 'maybe paid')").fetchone()[0]
    told += f"\n\nspent at most ${store.spent():.4f}; {lost} attempts whose end is not known"
    return "\n".join([told, *(f"{asked} answered under {', '.join(served)}" for asked, served in store.drift())])


def _dollars(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not amount >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of US dollars")
    return amount
