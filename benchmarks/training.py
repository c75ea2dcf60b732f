"""How many target tokens per second a training takes: ours, upstream's way, Transformers' default, TRL's default.

    python benchmarks/training.py [--rounds 3] [--steps 2]         # four minutes on two quiet cores
    python benchmarks/training.py --gpu                            # a GPU of its own: training_gpu.py

BPO's 300 real validation rows (data.fetch; BPO_DATA_DIR), a small Llama with a vocabulary of 32,000, Llama 2's
tokenizer where BPO_TOKENIZER_DIR has it. Every way trains through its own real code (training_ways.py) on the same rows
in the same order: 4 in a micro batch, 32 in a step, the first step not timed. The ways take turns; each round has other
rows. The limit is a forward and a backward pass of ours and nothing else. Writes benchmarks/training.json; the last
line is JSON: target tokens/s, null for what is not installed, and the share of computed tokens that are no padding.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import warnings
from importlib import metadata
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before its import: nothing here comes from the Hub

import training_gpu
import training_ways as ways

from bpo_utils import paths, progress, quiet, records
from bpo_utils.training import flops

WAYS = {"ours": ways.ours, "upstream": ways.upstream, "default_collator": ways.default_collator, "trl": ways.trl}
# What a fair reader asks of TRL: how much of its time its defaults take. Measured in the first round only.
VARIANTS = {
    "trl, no checkpointing": {"gradient_checkpointing": False},
    "trl, no checkpointing, float32": {"gradient_checkpointing": False, "bf16": False},
}
TRL = (
    "trl on a CPU: its output layer is written for GPUs, where it computes labelled positions only; on a CPU it scores "
    "every position, and entropy and accuracy as well. Checkpointing and bfloat16 are its defaults. What they cost "
    "here says nothing about a GPU."
)
WARM = 1  # steps
Found = dict[str, list[ways.Measured]]


def measure(base: Path, scratch: Path, arguments: argparse.Namespace) -> tuple[Found, list[dict], list[float]]:
    """All rounds: the measurements by way, the timed examples, and the seconds of clipping and AdamW by round."""
    pairs, rows, updates = ways.real_pairs(), [], []
    names = [name for name in WAYS if name != "trl" or (arguments.trl and importlib.util.find_spec("trl"))]
    found: Found = {name: [] for name in [*names, "limit"]}
    for turn in range(arguments.rounds):
        work = ways.work(base, pairs, arguments.global_batch, WARM, arguments.steps, turn, scratch)
        rows += work.timed
        for name in names if turn % 2 == 0 else names[::-1]:
            found[name].append(said(turn, name, WAYS[name](work)))
        passes, update = ways.limit(work)
        found["limit"].append(said(turn, "limit", passes))
        updates.append(update)
        if turn == 0 and "trl" in names:
            found |= {name: [said(turn, name, ways.trl(work, **changes))] for name, changes in VARIANTS.items()}
    return found, rows, updates


def said(turn: int, name: str, one: ways.Measured) -> ways.Measured:
    """The measurement, printed: a run that is stopped has shown something."""
    print(f"round {turn + 1}  {name:32}{one.speed:8.1f} target tokens/s", flush=True)
    return one


def ratios(found: Found, name: str, other: str) -> list[float]:
    """Target tokens per second of one way over another's, round by round: both had the same rows."""
    return [a.speed / b.speed for a, b in zip(found[name], found[other], strict=False)]


def table(found: Found) -> str:
    """One line for each way."""
    rows = [["way", "target tokens/s", "least", "most", "utilisation", "ours / it", "least", "most"]]
    for name, ones in found.items():
        speeds, against = [one.speed for one in ones], ratios(found, "ours", name)
        shown = [f"{value:.1f}" for value in (statistics.median(speeds), min(speeds), max(speeds))]
        shown += [f"{utilisation(ones):.3f}"]
        rows.append([name, *shown, *(f"{v:.2f}" for v in (statistics.median(against), min(against), max(against)))])
    return progress.columns(rows, right_from=1)


def utilisation(ones: list[ways.Measured]) -> float:
    """Tokens that are no padding over tokens that were computed."""
    return sum(one.real for one in ones) / sum(one.computed for one in ones)


def report(found: Found, rows: list[dict], updates: list[float], base: Path, about: dict, folder: Path) -> None:
    """The table, where ours stands, the file and the JSON line."""
    from transformers import AutoConfig, LlamaConfig

    reached = statistics.median(ratios(found, "ours", "limit"))
    update = statistics.median(taken / one.seconds for taken, one in zip(updates, found["ours"], strict=True))
    seven = LlamaConfig(**records.read_json(paths.FACTS / "llama2_7b_config.json")["config"])
    shapes = {"this model": AutoConfig.from_pretrained(base), "Llama 2 7B": seven}
    bounds = {name: ways.bound(flops.from_config(config), rows) for name, config in shapes.items()}
    print(f"\n{table(found)}\n")
    print(
        f"ours is at {reached:.0%} of the limit: its forward and backward passes and nothing else, no padding, logits "
        f"only where there is a label. AdamW and clipping take {update:.0%} of its time; what is left, "
        f"{1 - reached - update:.0%}, is the Trainer, batches and log (below zero: the noise of this machine)."
    )
    print(
        f"Operations of the padded ways over ours: {bounds['this model']:.2f} for this model, whose output layer is "
        f"most of it; {bounds['Llama 2 7B']:.2f} for Llama 2 7B, where it is 2 %. A large model gains this, not more."
    )
    print(f"{TRL if 'trl' in found else 'trl was not measured: it is not installed here, or was left out.'}\n")
    speed = {name: statistics.median(one.speed for one in ones) for name, ones in found.items()}
    last = {name: round(speed[name], 1) if name in speed else None for name in WAYS}
    last |= {"utilisation": round(utilisation(found["ours"]), 4)}
    last |= {"utilisation_upstream": round(utilisation(found["upstream"]), 4)}
    rounds = {
        name: [[round(one.seconds, 3), one.computed, one.real, one.targets] for one in ones]
        for name, ones in found.items()
    }
    known = {"of_the_limit": round(reached, 4), "adamw_share": round(update, 4), "operations": bounds} | about
    known |= {"rounds": rounds, "columns": ["seconds", "computed", "real", "targets"]}
    records.write_json(folder / "training.json", last | known)
    print(json.dumps(last))


def about(tokenizer: str, threads: int) -> dict:
    """What else decides the numbers."""
    installed = [name for name in ("torch", "transformers", "trl") if importlib.util.find_spec(name)]
    versions = {name: metadata.version(name) for name in installed}
    return {"tokenizer": tokenizer, "threads": threads, "python": sys.version.split()[0], "versions": versions}


def parsed(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed optimizer steps of each way in each round")
    parser.add_argument("--size", choices=ways.SIZES, default="small", help="of the model on a CPU")
    parser.add_argument("--global-batch", type=int, default=32, help="prompts in a step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-trl", dest="trl", action="store_false", help="leave TRL out, installed or not")
    parser.add_argument("--results", type=Path, default=paths.ROOT / "benchmarks", help="folder for training.json")
    training_gpu.add_arguments(parser)
    arguments = parser.parse_args(given)
    arguments.command = " ".join(["python benchmarks/training.py", *(sys.argv[1:] if given is None else given)])
    return arguments


def main(given: list[str] | None = None) -> None:
    """Measure, print a table, write the file, print the JSON line."""
    arguments = parsed(given)
    warnings.filterwarnings("ignore", category=FutureWarning)  # TRL's own use of names that Transformers has renamed
    quiet.transformers()
    if arguments.gpu:
        return training_gpu.main(arguments)
    os.environ["CUDA_VISIBLE_DEVICES"], os.environ["DS_ACCELERATOR"] = "", "cpu"  # this comparison is one of CPUs
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        tokenizer = ways.make_base(base, ways.SIZES[arguments.size])
        print(f"{tokenizer}, {arguments.threads} threads", flush=True)
        found, rows, updates = measure(base, Path(scratch), arguments)
        report(found, rows, updates, base, about(tokenizer, arguments.threads), arguments.results)


if __name__ == "__main__":
    main()
