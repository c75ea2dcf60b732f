"""How many prompts per second the rewriter rewrites: ours, upstream's loop, and continuous batching.

    python benchmarks/rewriting.py [--rounds 3]         # eight minutes on two cores; needs `bpo run --profile mini`
    python benchmarks/rewriting.py --gpu                # a GPU of its own: rewriting_gpu.py

The prompts are the miniature's 732 test prompts (the four sets in their real sizes), the model its trained rewriter, on
a CPU in float32, greedy. Upstream's loop is what its infer_example.py does: one prompt at a time through the model's
`generate`, with its KV cache. Every way gets the threads, one or all, with which it is faster in a trial: one
prompt at a time is too little work for two threads. The ways take turns; every text is compared with the loop's. Then
ours again with other batch sizes. Writes benchmarks/rewriting.json; the last line is JSON: the median over the rounds
of loop's time / ours, whether all texts are identical, and our prompts per second.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import rewriting_gpu

from bpo_utils import paths, profile, progress, records, rewrite, rewriters, tokens
from bpo_utils.chat import local

SIZES = (1, 4, 16, 64, 122, 244, 732)
TRIAL = 61  # prompts, from all sets, that tell how many threads are the faster
Way = Callable[[list[str]], list[str]]


def loop(model: Any, tokenizer: Any, most: int) -> Way:
    """One prompt at a time, as upstream: tokenize, generate, decode."""
    import torch

    def through(texts: list[str]) -> list[str]:
        found = []
        for text in texts:
            ids = torch.tensor([tokens.prompt_ids(tokenizer, tokens.framed(tokens.REWRITER_FRAME, text))])
            with torch.inference_mode():
                made = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=most,
                    do_sample=False,
                    num_beams=1,
                    use_cache=True,
                    pad_token_id=tokenizer.eos_token_id,
                )
            found.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip())
        return found

    return through


def ours(model: Any, tokenizer: Any, settings: profile.Rewriting, **changes: Any) -> Way:
    """The package's own rewriting, with the profile's settings but for `changes`."""
    changed = settings.model_copy(update=changes)
    rewriter = rewriters.of(model, tokenizer, changed)
    return lambda texts: [row.optimized_prompt for row in rewrite.through(rewriter, texts, changed)]


def timed(name: str, way: Way, texts: list[str], threads: int) -> tuple[float, list[str]]:
    """(seconds, texts), and a line that says so: a run that is stopped has shown something."""
    import torch

    torch.set_num_threads(threads)
    start = time.perf_counter()
    made = way(texts)
    seconds = time.perf_counter() - start
    told = f"{seconds:8.2f} s{len(texts) / seconds:9.1f} prompts/s, {threads} threads"
    print(f"{name:28}{told}", flush=True)
    return seconds, made


def faster(name: str, way: Way, texts: list[str], threads: int) -> int:
    """1 or `threads`: which is the faster for a way. Each has two trials, and its better one counts."""
    if threads == 1:
        return 1
    some = texts[:: max(1, len(texts) // TRIAL)]
    tried = [(timed(f"trial, {name}", way, some, each)[0], each) for each in (1, threads, 1, threads)]
    return min(tried)[1]


def prompts(run: str, count: int | None) -> list[str]:
    """The texts of a run's four test sets, all or the first `count`. Raises FileNotFoundError if there is no run."""
    tests = paths.run_dir(run) / "01_data" / "test"
    rows = [row for name in records.TEST_SETS for row in records.read_rows(tests / f"{name}.jsonl", records.TestPrompt)]
    return list(map(rewrite.text_of, rows))[:count]


def compare(
    ways: dict[str, Way], texts: list[str], rounds: int, threads: dict[str, int]
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """(seconds of every way, round by round; prompts of which its text ever differed from the loop's)."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    differ: dict[str, set[int]] = {name: set() for name in ways}
    expected = None
    for turn in range(rounds):
        names = list(ways) if turn % 2 == 0 else list(ways)[::-1]
        made = {}
        for name in names:
            taken, made[name] = timed(f"round {turn + 1}, {name}", ways[name], texts, threads[name])
            seconds[name].append(taken)
        expected = expected or made["loop"]
        for name in names:
            differ[name] |= {n for n, (a, b) in enumerate(zip(made[name], expected, strict=True)) if a != b}
    return seconds, {name: len(found) for name, found in differ.items()}


def report(
    seconds: dict[str, list[float]], differ: dict[str, int], sizes: dict[str, list[float]], count: int, facts: dict
) -> dict[str, Any]:
    """Print the tables; returns what the file holds, the last line's keys first."""
    rows = [["way", "prompts/s", "least", "most", "loop's time / its", "least", "most", "texts that differ"]]
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(seconds["loop"], taken, strict=True)]
        shown = [f"{count / value:.1f}" for value in (statistics.median(taken), max(taken), min(taken))]
        shown += [f"{value:.2f}" for value in (statistics.median(ratios), min(ratios), max(ratios))]
        rows.append([name, *shown, str(differ[name])])
    print(f"\n{progress.columns(rows, right_from=1)}\n")
    table = [["ours", "prompts/s", "least", "most"]]
    for size, taken in sizes.items():
        values = (statistics.median(taken), max(taken), min(taken))
        table.append([size, *(f"{count / value:.1f}" for value in values)])
    print(f"{progress.columns(table, right_from=1)}\n")
    return {
        "ratio_to_loop": round(
            statistics.median(a / b for a, b in zip(seconds["loop"], seconds["ours"], strict=True)), 2
        ),
        "identical": differ["ours"] == 0,
        "prompts_per_s": round(count / statistics.median(seconds["ours"]), 1),
        "prompts": count,
        "differ": differ,
        "seconds": seconds,
        "seconds_by_batch_size": sizes,
    } | facts


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds on the run's own model."""
    settings = profile.load(arguments.run).rewriting.model_copy(update={"mode": "greedy"})
    model, tokenizer = local.load(arguments.model or paths.run_dir(arguments.run) / "03_training" / "model")
    texts = prompts(arguments.run, arguments.prompts)
    ways = {"loop": loop(model, tokenizer, settings.max_new_tokens), "ours": ours(model, tokenizer, settings)}
    ways["continuous"] = ours(model, tokenizer, settings, backend="continuous")
    by_size = {
        f"batch size {n}": ours(model, tokenizer, settings, batch_size=n) for n in SIZES if n <= max(4, len(texts))
    }
    threads = {name: faster(name, way, texts, arguments.threads) for name, way in (ways | by_size).items()}
    seconds, differ = compare(ways, texts, arguments.rounds, threads)
    sizes: dict[str, list[float]] = {name: [] for name in by_size}
    for _ in range(arguments.rounds):
        for name, way in by_size.items():
            sizes[name].append(timed(f"ours, {name}", way, texts, threads[name])[0])
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    about = {"batch_size": settings.batch_size, "threads": threads, "python": sys.version.split()[0]}
    return report(seconds, differ, sizes, len(texts), about | {"versions": versions, "load": os.getloadavg()[0]})


def parsed(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", default="mini", help="the profile whose prompts and rewriter are taken")
    parser.add_argument("--model", type=Path, help="another folder with a rewriter")
    parser.add_argument("--prompts", type=int, help="only the first so many (default: all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--results", type=Path, default=paths.ROOT / "benchmarks", help="folder for rewriting.json")
    rewriting_gpu.add_arguments(parser)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Measure, print the tables, write the file, print the JSON line."""
    arguments = parsed(given)
    if arguments.gpu:
        return rewriting_gpu.main(arguments)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # this comparison is one of CPUs
    found = measure(arguments)
    records.write_json(arguments.results / "rewriting.json", found)
    print(json.dumps({name: found[name] for name in ("ratio_to_loop", "identical", "prompts_per_s")}))


if __name__ == "__main__":
    main()
