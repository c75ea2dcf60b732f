"""Seconds for the self-BLEU of a corpus of prompts: ours, and sacrebleu's and NLTK's sentence BLEU in a loop.

    python benchmarks/self_bleu.py [--rounds 3] [--rows 60] [--sizes 1000,3000,10000,30000]     # about 8 minutes
    python benchmarks/self_bleu.py --sizes 300,3000 --rows 5 --rounds 1                           # about 1 minute

30,000 different real texts: first all prompts (BPO, HH-RLHF, GSM8K, LIAR, the two ShareGPT files of LLaMA-Factory), the
rest are replies to them. The smaller sets are random samples of these, others in each round. One core. Tokenization is
inside the time of every way; what sacrebleu remembers of tokenized texts is emptied before each run of ours. The other
ways take the tokens once and then go through all other texts for each text: that is timed for `--rows` random texts
against all others, in every round, and extrapolated to all texts; up to 1,000 texts it is also run in full, once, to
check that. sacrebleu must agree with ours to 1e-9 on every text it scores. Needs BPO_DATA_DIR, BPO_PREFERENCES_DIR,
BPO_TASKS_DIR and nltk. Writes self_bleu.json; the last line is JSON.
"""

import argparse
import csv
import gzip
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bpo_utils import describe, paths, progress, records, segment, self_bleu

FULL = 30_000  # texts of the corpus
PEERS_UP_TO, WHOLE_UP_TO = 3_000, 1_000  # texts: where the other ways are timed at all, and once with every text
THRESHOLD = 50.0  # of the filter; any number would do
SHORT_RUNS = 5  # of ours below 10,000 texts: one takes tenths of a second
Timed = dict[str, list[float]]


def file(variable: str, name: str) -> Path:
    """A data file in the folder that an environment variable names. Ends the program if it is not there."""
    path = Path(os.environ.get(variable, ""), name)
    if not os.environ.get(variable) or not path.is_file():
        now = os.environ.get(variable, "not set")
        raise SystemExit(f"{name} not found: set {variable} to the folder that has it (now {now})")
    return path


def dialogues(speaker: str) -> Iterator[str]:
    """What one speaker says in HH-RLHF, in the chosen and the rejected dialogues."""
    with gzip.open(file("BPO_PREFERENCES_DIR", "hh_rlhf_harmless_base_test.jsonl.gz"), "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            for side in ("chosen", "rejected"):
                turns = re.split(r"\n\n(Human|Assistant): ", row[side])[1:]
                yield from (text for who, text in zip(turns[::2], turns[1::2], strict=True) if who == speaker)


def prompts() -> Iterator[tuple[str, str]]:
    """(source, text) of every prompt."""
    for name, column in (("val", "instruction"), ("bpo_test", "prompt"), ("dolly_eval", "instruction")):
        for row in records.read_json(file("BPO_DATA_DIR", f"{name}.json")):
            yield "BPO prompts", records.joined(row[column], row.get("context", ""))
            yield "BPO optimized prompts", row.get("optimized_prompt", "")
    for row in records.read_json(file("BPO_DATA_DIR", "self_instruct_eval.json")):
        yield "BPO prompts", records.joined(row["instruction"], row["context"])
    for line in file("BPO_DATA_DIR", "vicuna_eval.jsonl").read_text("utf-8").splitlines():
        yield "BPO prompts", json.loads(line)["text"]
    for part in ("train", "test"):
        with file("BPO_TASKS_DIR", f"gsm8k_{part}.tsv").open(encoding="utf-8", newline="") as lines:
            yield from (("GSM8K questions", row[0]) for row in csv.reader(lines, "excel-tab", quoting=csv.QUOTE_NONE))
        for line in file("BPO_TASKS_DIR", f"liar/{part}.jsonl").read_text("utf-8").splitlines():
            yield "LIAR statements", json.loads(line)["text"].split("\n")[0].removeprefix("Statement: ")
    yield from (("HH-RLHF, human", text) for text in dialogues("Human"))
    for language in ("en", "zh"):
        for row in records.read_json(file("BPO_PREFERENCES_DIR", f"llamafactory_dpo_{language}_demo.json")):
            yield from (("ShareGPT, human", turn["value"]) for turn in row["conversations"] if turn["from"] == "human")


def replies() -> Iterator[tuple[str, str]]:
    """(source, text) of every reply to them."""
    yield from (("HH-RLHF, assistant", text) for text in dialogues("Assistant"))
    for name in ("val", "bpo_test"):
        for row in records.read_json(file("BPO_DATA_DIR", f"{name}.json")):
            yield from (("BPO responses", row[column]) for column in ("good_res", "bad_res"))
    for language in ("en", "zh"):
        for row in records.read_json(file("BPO_PREFERENCES_DIR", f"llamafactory_dpo_{language}_demo.json")):
            yield from (("ShareGPT, replies", row[side]["value"]) for side in ("chosen", "rejected"))


def corpus() -> dict[str, str]:
    """Different texts and their source, up to 30,000, in a random but fixed order: its beginning is a sample of it."""
    found: dict[str, str] = {}
    for source, text in itertools.chain(prompts(), replies()):
        if text.strip() and len(found) < FULL:
            found.setdefault(text.strip(), source)
    return dict(random.Random(1).sample(sorted(found.items()), len(found)))


def ours(run: Callable[[Sequence[str]], object], texts: Sequence[str]) -> float:
    """Seconds of one run, the tokens not remembered from the last."""
    from sacrebleu.tokenizers import tokenizer_13a, tokenizer_re, tokenizer_zh

    runs = 1 if len(texts) >= 10_000 else SHORT_RUNS
    taken = 0.0
    for _ in range(runs):
        for kind in (tokenizer_13a.Tokenizer13a, tokenizer_re.TokenizerRegexp, tokenizer_zh.TokenizerZh):
            kind.__call__.cache_clear()
        started = time.perf_counter()
        run(texts)
        taken += time.perf_counter() - started
    return taken / runs


def sacrebleu_way(texts: Sequence[str], rows: Sequence[int]) -> tuple[float, float, list[float]]:
    """(seconds to tokenize all texts, seconds to score the rows, their scores) by sacrebleu's sentence_bleu."""
    from sacrebleu import sentence_bleu

    started = time.perf_counter()
    cut = [" ".join(segment.bleu_tokens(text.rstrip())) for text in texts]
    ready, scores = time.perf_counter(), []
    for row in rows:
        others = cut[:row] + cut[row + 1 :]
        options = {"smooth_method": "exp", "tokenize": "none", "use_effective_order": True}
        scores.append(sentence_bleu(cut[row], others, **options).score)
    return ready - started, time.perf_counter() - ready, scores


def nltk_way(texts: Sequence[str], rows: Sequence[int]) -> tuple[float, float, list[float]]:
    """The same by NLTK's sentence_bleu with its smoothing method 1, as in Texygen's SelfBleu (arXiv 1802.01886)."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    started = time.perf_counter()
    cut = [segment.bleu_tokens(text.rstrip()) for text in texts]
    ready, scores = time.perf_counter(), []
    for row in rows:
        others = cut[:row] + cut[row + 1 :]
        smoothing = SmoothingFunction().method1
        scores.append(sentence_bleu(others, cut[row], (0.25, 0.25, 0.25, 0.25), smoothing_function=smoothing))
    return ready - started, time.perf_counter() - ready, scores


OURS = {
    "self_bleu": self_bleu.self_bleu,
    "filter": lambda texts: self_bleu.greedy(texts, THRESHOLD),
    "distinct_4": describe.distinct_n,
}
PEERS = {"sacrebleu": sacrebleu_way, "nltk": nltk_way}


def compare(texts: Sequence[str], names: Sequence[str], turn: int, rows: int) -> tuple[dict[str, float], float]:
    """The other ways, one round at one size: seconds by way, and how far sacrebleu is from ours at most.

    Extrapolated from a few rows (and named so); in the first round, up to 1,000 texts, of a whole run too.
    """
    seconds, wanted, apart = {}, self_bleu.self_bleu(texts), 0.0
    sample = random.Random(turn).sample(range(len(texts)), min(rows, len(texts)))
    for name in names:
        for kind, scored in {"extrapolated": sample, "whole": range(len(texts))}.items():
            if kind == "whole" and (turn or len(texts) > WHOLE_UP_TO):
                continue
            once, scoring, scores = PEERS[name](texts, scored)
            seconds[f"{name}_{kind}_s"] = once + scoring * len(texts) / len(scored)
            if name == "sacrebleu":
                apart = max(apart, *(abs(score - wanted[row]) for row, score in zip(scored, scores, strict=True)))
    assert apart <= 1e-9, f"sacrebleu and ours are {apart} apart"
    return seconds, apart


def measure(texts: Sequence[str], sizes: Sequence[int], names: Sequence[str], turn: int, rows: int) -> tuple:
    """One round: seconds by size and way, and how far sacrebleu is from ours at most."""
    starts = {size: turn * size % (len(texts) - size + 1) for size in sizes}  # other texts in each round, if there are
    parts = {size: texts[start : start + size] for size, start in starts.items()}
    seconds: dict[int, dict[str, float]] = {size: {} for size in sizes}
    for name, run in OURS.items():  # all sizes in a row: what else the machine does is then the same for all
        for size, part in parts.items():
            seconds[size][f"{name}_s"] = ours(run, part)
    apart = 0.0
    for size in [size for size in sizes if size <= PEERS_UP_TO]:
        more, difference = compare(parts[size], names, turn, rows)
        seconds[size], apart = seconds[size] | more, max(apart, difference)
    return seconds, apart


def peak(what: str) -> None:
    """Print the megabytes of memory of this process before one run of ours on the whole corpus, and at most."""
    import resource

    import psutil

    unit = 1 if sys.platform == "darwin" else 2**10  # of ru_maxrss: bytes there, kilobytes on Linux
    texts = list(corpus())
    OURS[what](texts[:20])  # libraries are not what the run needs
    before = psutil.Process().memory_info().rss
    OURS[what](texts)
    print(json.dumps([before // 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20]))


def memory(what: str) -> list[int]:
    """Megabytes before and at most, of a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--peak", what], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def arguments_given() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=60, help="texts that the other ways score at each size and round")
    parser.add_argument("--sizes", default="1000,3000,10000,30000", help="numbers of texts")
    parser.add_argument("--without-nltk", action="store_true", help="leave NLTK out")
    parser.add_argument("--results", type=Path, default=paths.ROOT / "benchmarks", help="folder of self_bleu.json")
    parser.add_argument("--peak", choices=OURS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print a table, write the file, print the JSON line."""
    arguments = arguments_given()
    if arguments.peak:
        peak(arguments.peak)
        return
    peers = [name for name in PEERS if name != "nltk" or not arguments.without_nltk]
    if "nltk" in peers:
        try:
            import nltk  # noqa: F401
        except ImportError:
            raise SystemExit("nltk is missing: pip install nltk==3.10.4, or give --without-nltk") from None
    if hasattr(os, "sched_setaffinity"):  # one core, whatever a library would like
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found, sizes = corpus(), sorted({int(size) for size in arguments.sizes.split(",")})
    texts = list(found)
    if sizes[-1] > len(texts):
        raise SystemExit(f"the data have {len(texts)} different texts, --sizes asks for {sizes[-1]}; give smaller ones")
    # first, while this process is small: on Linux a child's highest memory is at least its parent's
    peaks = {name: memory(name) for name in ("self_bleu", "filter")}
    for run in OURS.values():  # imports are not the question
        run(texts[:20])
    rounds: dict[int, Timed] = {size: {} for size in sizes}
    apart = 0.0
    for turn in range(arguments.rounds):
        seconds, difference = measure(texts, sizes, peers, turn, arguments.rows)
        apart = max(apart, difference)
        for size in sizes:
            for name, value in seconds[size].items():
                rounds[size].setdefault(name, []).append(value)
        print(f"round {turn + 1}: {seconds[sizes[-1]]['self_bleu_s']:.2f} s for {sizes[-1]:,} texts", flush=True)
    last, everything = report(found, rounds, apart, peaks, arguments.rows)
    records.write_json(arguments.results / "self_bleu.json", everything)
    print(json.dumps(last))


def middle(values: Sequence[float], digits: int = 2) -> str:
    """Median (least to most)."""
    if not values:
        return "-"
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratios(rounds: dict[int, Timed], size: int, name: str) -> list[float]:
    """How many times the time of ours another way takes at a size, by round; none if it was not timed there."""
    others = rounds.get(size, {}).get(f"{name}_extrapolated_s", [])
    return [other / mine for other, mine in zip(others, rounds[size]["self_bleu_s"], strict=True)] if others else []


def report(found: dict[str, str], rounds: dict[int, Timed], apart: float, peaks: dict, rows: int) -> tuple[dict, dict]:
    """Print the table. Returns what the JSON line says and what the file says."""
    texts = list(found)
    sources = {source: list(found.values()).count(source) for source in dict.fromkeys(found.values())}
    print(f"\n{len(texts):,} different texts: " + ", ".join(f"{n:,} {source}" for source, n in sorted(sources.items())))
    table = [["texts", "self-BLEU, s", "filter, s", "distinct-4, s", *(f"{name}, s *" for name in PEERS)]]
    for size, timed in rounds.items():
        others = [middle(timed.get(f"{name}_extrapolated_s", []), 0) for name in PEERS]
        table.append([f"{size:,}", *(middle(timed[f"{name}_s"]) for name in OURS), *others])
    print(progress.columns(table, right_from=0))
    print(f"* extrapolated from {rows} texts per round against all others; median (least to most) of rounds")
    for size, name in itertools.product(rounds, PEERS):
        if whole := rounds[size].get(f"{name}_whole_s"):
            guess = rounds[size][f"{name}_extrapolated_s"]
            print(f"{name}, all of {size:,} texts, once: {whole[0]:,.1f} s; extrapolated: {middle(guess, 1)}")
    for size, name in itertools.product(rounds, PEERS):
        if ratio := ratios(rounds, size, name):
            print(f"{name} / ours at {size:,}: {middle(ratio, 0)}")
    for name, (before, most) in peaks.items():
        print(f"memory of {name}, {len(texts):,} texts: {most} MB at most, {before} MB before it began")
    kept = sum(value < THRESHOLD for value in self_bleu.greedy(texts, THRESHOLD))
    print(f"filter: keeps {kept:,} of {len(texts):,} under a BLEU of {THRESHOLD:g}")
    full, tenth = (rounds.get(size, {}).get("self_bleu_s", []) for size in (30_000, 3_000))
    growth = [ten / one for ten, one in zip(full, tenth, strict=True)] if full and tenth else []
    print(f"30,000 / 3,000 texts: {middle(growth, 1)} times; sacrebleu at most {apart:.1e} from ours\n")
    values = {"ours_30k_s": full} | {f"{name}_ratio_3k": ratios(rounds, 3_000, name) for name in ("nltk", "sacrebleu")}
    values |= {"growth_10x": growth}
    last = {name: round(statistics.median(numbers), 3) if numbers else None for name, numbers in values.items()}
    more = {"rows_extrapolated_from": rows, "sacrebleu_apart_at_most": apart, "filter_keeps": kept}
    more |= {"peak_mb_before_and_at_most": peaks, "texts": sources, "rounds": rounds}
    machine = {"cores": os.cpu_count(), "cores_used": 1, "python": sys.version.split()[0]}
    return last, last | more | {"machine": machine}


if __name__ == "__main__":
    main()
