"""Prompt search: our methods, DSPy and promptolution on the same rows, through the same server, at the same budget.

    python benchmarks/prompt_search.py --budget 480 --seeds 5 [--task landscape] [--peers .venv-peers/bin/python]

One local server (prompt_search_server.py, a process of its own) has the target and the optimizer and counts the calls
of every run. Each method searches with the train and dev rows of one task and at most `--budget` target calls; its
chosen instruction is then scored by us on the test rows, outside of the budget. Peers run in a process of their own
each, with the interpreter of `--peers` (this one by default); what is not installed there is named as such. The
optimizer is a program, and for the peers a reader of their own requests (prompt_search_readers.py): what they score
depends on it.
Writes benchmarks/prompt_search.json; the last line is JSON: per method the mean test score over seeds and rows with its
95 % interval (rows and seeds drawn with replacement), target calls (the server's count, mean), planned calls (at most)
and optimizer calls (completions, mean).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import prompt_search_peers as peers
import prompt_search_server as server

from bpo_utils import chat, paths, profile, progress, records
from bpo_utils.chat import Calls, wire
from bpo_utils.profile import Limits, Model, Price, Searching, SearchRows
from bpo_utils.search import landscape, methods, run, tasks
from bpo_utils.search.evaluate import NO_ANSWER
from bpo_utils.search.state import Roles, Search
from bpo_utils.search.task import Task, prompt

RESAMPLES = 10_000
LIMIT_S = 3600  # of one search by a peer; longer is a defect
LAST = ("test_score", "ci_low", "ci_high", "target_calls", "planned_calls", "optimizer_calls")
Result = dict[str, Any]


def model(url: str, name: str, who: str) -> Model:
    """A model of the server, under the address of one run."""
    free = Price(input=0.0, output=0.0)
    return Model(name=who, provider="compatible", model=who, base_url=f"{url}/{name}/v1", price=free)


def calls(folder: str) -> Calls:
    """Calls with a store of their own, so that nothing is known from another run."""
    limits = Limits(concurrency_start=peers.AT_ONCE, concurrency_most=peers.AT_ONCE)
    return Calls(Path(folder) / "calls.sqlite", recover=False, limits={"compatible": limits})


def ours(method: str, task: Task, searching: Searching, budget: int, seed: int, url: str) -> Result:
    """One search by a method of bpo_utils. Raises ValueError for a budget that is too small, ImportError if it is not
    there."""
    name = f"{method}-{seed}"
    settings = run.settings_of(searching, method, task, budget)
    with tempfile.TemporaryDirectory() as folder:
        roles = Roles(model(url, name, "target"), model(url, name, "optimizer"), calls(folder))
        state = Search(task, roles, seed, budget, tries=searching.tries)
        found = methods.find(method).run(state, settings)
    planned = run.planned(method, settings, task, budget).target
    told = {"instruction": found.text, "demo": found.demo, "planned_calls": planned}
    return told | {"settings": settings.model_dump(mode="json"), "own_count": state.counts.target_calls}


def theirs(name: str, arguments: argparse.Namespace, budget: int, seed: int, url: str) -> Result:
    """One search by a peer, in a process of its own. Raises RuntimeError with its last lines if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out, script = Path(folder) / "result.json", Path(peers.__file__)
        given = [name, "--url", url, "--run", f"{name}-{seed}", "--task", arguments.task, "--budget", str(budget)]
        given += ["--seed", str(seed), "--out", str(out), "--rows", *map(str, arguments.rows)]
        done = subprocess.run(
            [arguments.peers, str(script), *given],
            env=os.environ | alone(Path(folder)),
            capture_output=True,
            text=True,
            cwd=paths.ROOT,
            timeout=LIMIT_S,
        )
        if done.returncode or not out.is_file():
            raise RuntimeError(f"{name} ended with {done.returncode}: ...{done.stderr[-1500:]}")
        found = records.read_json(out)
    return found | {"demo": "", "planned_calls": found["settings"]["planned"]}


def alone(folder: Path) -> dict[str, str]:
    """A peer's surroundings: this package on its path, caches of its own, and nothing to reach but the server."""
    nowhere = {"http_proxy": "", "https_proxy": "", "HTTP_PROXY": "", "HTTPS_PROXY": "", "NO_PROXY": "127.0.0.1"}
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    return nowhere | offline | {"PYTHONPATH": str(paths.ROOT), "DSPY_CACHEDIR": str(folder / "dspy")}


def installed(interpreter: str) -> dict[str, str]:
    """Versions of the peers' libraries that an interpreter has. Raises RuntimeError if it cannot be run."""
    command = [interpreter, peers.__file__, "versions"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT, env=os.environ | alone(Path("none")))
    if done.returncode:
        raise RuntimeError(f"{interpreter} cannot run {peers.__file__}: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def tested(task: Task, found: Sequence[Result], url: str) -> list[list[float]]:
    """Scores of every chosen instruction on every test row, asked under a name of its own."""
    target = model(url, "test", "target")
    texts = [prompt(task, one["instruction"], row.input, one["demo"])[0] for one in found for row in task.test]
    requests = {text: wire.Request(target, text, max_tokens=task.answer_tokens) for text in texts}
    with tempfile.TemporaryDirectory() as folder:
        replies = chat.complete(list(requests.values()), calls(folder))
    known = dict(zip(requests, replies, strict=True))
    scores = []
    for place, text in enumerate(texts):
        row, reply = task.test[place % len(task.test)], known[text]
        scores.append(0.0 if reply.outcome in NO_ANSWER else task.metric(row, reply.text).value)
    return [scores[start : start + len(task.test)] for start in range(0, len(scores), len(task.test))]


def interval(scores: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """(mean, low, high) of seeds x rows: 95 %, percentiles of draws with replacement of both."""
    import numpy

    table, rng = numpy.asarray(scores, dtype=float), numpy.random.default_rng(0)
    drawn = [rng.multinomial(size, [1 / size] * size, RESAMPLES) / size for size in table.shape]
    means = numpy.einsum("bs,sr,br->b", drawn[0], table, drawn[1])
    low, high = numpy.percentile(means, [2.5, 97.5])
    return float(table.mean()), float(low), float(high)


def left_out(name: str, arguments: argparse.Namespace, task: Task, searching: Searching, there: dict[str, str]) -> str:
    """Why a method cannot take part; "" if it can."""
    try:
        if name in peers.PEERS:
            if missing := [each for each in peers.NEEDS[peers.PEERS[name]] if each not in there]:
                return f"not installed: {', '.join(missing)} (for the interpreter of --peers)"
            peers.knobs(name, arguments.budget, len(task.train), len(task.dev))
        else:
            run.settings_of(searching, name, task, arguments.budget)
    except ImportError as error:
        return f"not there: {error}"
    except ValueError as error:
        return f"left out: {error}"
    return ""


def search_once(
    arguments: argparse.Namespace, task: Task, searching: Searching, seed: int, url: str, found: dict[str, Any]
) -> None:
    """One search by every method that can take part, added to `found`; a method that fails is told and left out."""
    for name in [name for name, results in found.items() if not isinstance(results, str)]:
        try:
            if name in peers.PEERS:
                made = theirs(name, arguments, arguments.budget, seed, url)
            else:
                made = ours(name, task, searching, arguments.budget, seed, url)
        except (ValueError, RuntimeError) as error:
            found[name] = f"failed: {type(error).__name__}: {str(error)[-800:]}"
            print(f"seed {seed} {name}: {found[name]}", flush=True)
            continue
        made |= server.counts(url, f"{name}-{seed}") | {"seed": seed}
        found[name].append(made)
        used = f"{made['target_calls']:5} target calls, {made['optimizer_calls']:4} of the optimizer"
        print(f"seed {seed} {name:28}{used}  {made['instruction'][:60]!r}", flush=True)


def summary(task: Task, found: dict[str, Any], budget: int, url: str) -> dict[str, Any]:
    """Per method what the file holds: scores, calls, and its runs; or {"missing": why}."""
    done = {name: results for name, results in found.items() if not isinstance(results, str)}
    scores = {name: tested(task, results, url) for name, results in done.items()}
    told: dict[str, Any] = {}
    for name, results in found.items():
        if isinstance(results, str):
            told[name] = {"missing": results}
            continue
        mean, low, high = interval(scores[name])
        planned = max(one["planned_calls"] for one in results)
        one = {"test_score": round(mean, 4), "ci_low": round(low, 4), "ci_high": round(high, 4)}
        one |= {"target_calls": average(results, "target_calls"), "planned_calls": planned}
        one |= {"optimizer_calls": average(results, "optimizer_calls")}
        if over := [run["target_calls"] for run in results if run["target_calls"] > min(run["planned_calls"], budget)]:
            one["over_budget"] = over
        one["test_by_seed"] = [round(sum(row) / len(row), 4) for row in scores[name]]
        if "seed" in scores:
            both = zip(scores[name], scores["seed"], strict=True)
            gain = interval([[a - b for a, b in zip(*pair, strict=True)] for pair in both])
            one["gain_over_seed_prompt"] = [round(value, 4) for value in gain]
        if task.name == "landscape":
            true = [landscape.value(landscape.phrases_in(f"{run['instruction']} {run['demo']}")) for run in results]
            one["true_value"] = round(sum(true) / len(true), 4)
        runs = [{key: value for key, value in each.items() if key not in ("settings", "versions")} for each in results]
        told[name] = one | {"settings": results[0].get("settings"), "runs": runs}
    return told


def average(results: Sequence[Result], name: str) -> float:
    """Mean of a count over the runs."""
    return round(sum(one[name] for one in results) / len(results), 1)


def table(told: dict[str, Any]) -> str:
    """The methods, best first; those without a result at the end."""
    rows = [["method", "test", "low", "high", "target calls", "planned", "optimizer calls"]]
    ranked = sorted(told.items(), key=lambda pair: -pair[1].get("test_score", -1))
    for name, one in ranked:
        if "missing" not in one:
            rows.append([name, *(f"{one[key]:.3f}" for key in LAST[:3]), *(f"{one[key]:g}" for key in LAST[3:])])
    missing = [f"{name}: {one['missing']}" for name, one in ranked if "missing" in one]
    over = [f"{name}: PASSED THE BUDGET, {one['over_budget']}" for name, one in ranked if "over_budget" in one]
    notes = [
        f"{name}, seed {run['seed']}: {run['note']}"
        for name, one in ranked
        for run in one.get("runs", [])
        if "note" in run
    ]
    return "\n".join([progress.columns(rows, right_from=1), *missing, *over, *notes])


def parsed(given: list[str] | None) -> argparse.Namespace:
    """The command line. Raises SystemExit for a method that nobody has."""
    every = [*methods.NAMES, *peers.PEERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=int, default=480, help="target calls of one search")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--task", choices=sorted(server.TASKS), default="instruction")
    parser.add_argument("--rows", type=int, nargs=4, metavar=("TRAIN", "DEV", "TEST", "DRAW"), help="the profile's")
    parser.add_argument("--methods", nargs="+", choices=every, default=every, metavar="NAME")
    parser.add_argument("--profile", default="mini", help="whose section `searching` has the settings of our methods")
    parser.add_argument("--peers", default=sys.executable, help="an interpreter that has dspy and promptolution")
    parser.add_argument("--results", type=Path, default=paths.ROOT / "benchmarks", help="folder for prompt_search.json")
    return parser.parse_args(given)


def write(arguments: argparse.Namespace, there: dict[str, str], seeds: int, told: dict[str, Any]) -> None:
    """Put the results of one task and budget into the file; those of others stay."""
    file = arguments.results / "prompt_search.json"
    kept = records.read_json(file) if file.is_file() else {}
    about = {"rows": arguments.rows, "seeds": seeds, "python": sys.version.split()[0], "peers": there}
    kept[f"{arguments.task}-{arguments.budget}"] = about | {"methods": told}
    records.write_json(file, kept)


def main(given: list[str] | None = None) -> None:
    """Search, test, print the table, write the file after every seed, print the JSON line. Ends with 1 if a method
    failed."""
    arguments = parsed(given)
    searching, there = profile.load(arguments.profile).searching, installed(arguments.peers)
    arguments.rows = arguments.rows or list(searching.rows.model_dump().values())
    task = tasks.load(arguments.task, SearchRows(**dict(zip(SearchRows.model_fields, arguments.rows, strict=True))))
    found: dict[str, Any] = {}
    for name in arguments.methods:
        found[name] = left_out(name, arguments, task, searching, there) or []
    with server.running(arguments.task) as url:
        for seed in range(1, arguments.seeds + 1):
            search_once(arguments, task, searching, seed, url, found)
            told = summary(task, found, arguments.budget, url)
            write(arguments, there, seed, told)
    print(f"\n{table(told)}\n")
    names = (*LAST, "over_budget", "missing")
    print(json.dumps({name: {key: one[key] for key in names if key in one} for name, one in told.items()}))
    if failed := [name for name, one in told.items() if one.get("missing", "").startswith("failed")]:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
