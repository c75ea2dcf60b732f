"""Training a model of Llama 2 7B's shape on one GPU: tokens/s, MFU, and peak memory beside what `bpo plan` reckons.

    python benchmarks/training.py --gpu                            # sdpa and flash, checkpointing off and on, 4 to 32
    python benchmarks/training.py --gpu --attention sdpa --checkpointing off --micro 8 16
    python benchmarks/training.py --gpu --shape tiny --micro 4     # the same code on a CPU, to see that it runs

Random weights, and examples of random ids with the lengths of BPO's 300 validation rows (facts/bpo_lengths.json), so
that nothing has to be fetched; the trainer is bpo_utils' own, with profile paper's settings but one GPU and no ZeRO.
Each setting is a process of its own, since a peak of memory is a process's; one that does not fit is a line that says
so. Writes benchmarks/training_gpu.json after each, into which further runs add their settings, and prints the table.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import training_ways as ways

from bpo_utils import paths, profile, records, tokens, train
from bpo_utils.training import batches, flops, memory

SHAPES = ("llama-2-7b", "tiny")
WARM, STEPS = 2, 6  # of 32 prompts; 300 rows have no more
MINUTES = 15  # for one setting: 27 GB of weights are read and moved first
COLUMNS = [
    "attention",
    "checkpointing",
    "micro batch",
    "tokens/s",
    "target tokens/s",
    "MFU",
    "peak GiB",
    "plan GiB",
    "plan / peak",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of --gpu."""
    group = parser.add_argument_group("on a GPU")
    group.add_argument("--gpu", action="store_true", help="measure our training on this machine's GPU instead")
    group.add_argument("--shape", choices=SHAPES, default="llama-2-7b", help="tiny: also without a GPU")
    group.add_argument(
        "--attention", nargs="+", choices=("sdpa", "flash_attention_2"), default=["sdpa", "flash_attention_2"]
    )
    group.add_argument("--checkpointing", nargs="+", choices=("off", "on"), default=["off", "on"])
    group.add_argument("--micro", nargs="+", type=int, choices=(1, 2, 4, 8, 16, 32), default=[4, 8, 16, 32])
    group.add_argument(
        "--base", type=Path, default=paths.ROOT / "build" / "benchmark", help="folder for random weights"
    )
    group.add_argument("--one", help=argparse.SUPPRESS)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What one process measures."""

    attention: str
    checkpointing: bool
    micro: int

    @property
    def training(self) -> profile.Training:
        """Profile paper's training, on one GPU."""
        chosen = {"attention": self.attention, "checkpointing": self.checkpointing, "micro_batch": self.micro}
        return profile.load("paper").training.model_copy(update=ways.OURS | chosen)


def main(arguments: argparse.Namespace) -> None:
    """Measure the settings asked for, each in its own process, and print the table."""
    import torch

    if arguments.one:
        return print(json.dumps(one(Setting(**json.loads(arguments.one)), arguments.shape, arguments.base)))
    if not torch.cuda.is_available() and arguments.shape != "tiny":
        raise SystemExit(
            f"there is no GPU here that torch can use. {needs()} --shape tiny runs the same code on a CPU."
        )
    if arguments.shape != "tiny":
        print(needs(), flush=True)
    results = arguments.results / "training_gpu.json"
    found = records.read_json(results)["settings"] if results.is_file() else []
    for attention, checkpointing, micro in itertools.product(
        arguments.attention, arguments.checkpointing, arguments.micro
    ):
        setting = dataclasses.asdict(Setting(attention, checkpointing == "on", micro)) | {"shape": arguments.shape}
        made = setting | {"date": str(datetime.date.today()), "command": arguments.command} | child(setting, arguments)
        found = [row for row in found if {name: row[name] for name in setting} != setting] + [made]
        records.write_json(results, {"settings": found})
        print(json.dumps(made), flush=True)
    shown = [row for row in found if row["shape"] == arguments.shape]
    devices = sorted({row["device"] for row in shown if "device" in row})
    print(f"\n{datetime.date.today()}, {', '.join(devices) or 'nothing ran'}: `{arguments.command}`\n\n{table(shown)}")


def needs() -> str:
    """What the measurement of Llama 2 7B's shape takes, from the plan's own formulas."""
    from transformers import LlamaConfig

    shape = flops.from_config(LlamaConfig(**shape_of("llama-2-7b")))
    made = examples(shape.vocab)
    least, most = (planned(Setting("sdpa", *rest), shape, made, gpu=True) for rest in ((True, 4), (False, 4)))
    weights = 4 * shape.parameters / 1e9
    return (
        f"Llama 2 7B's shape needs a GPU with {least:.0f} GiB (checkpointing, micro batches of 4) to {most:.0f} GiB "
        f"(without; larger ones more), {2 * weights:.0f} GB of host memory, {weights / 2:.0f} GB of disk, and a minute "
        "or two for each setting."
    )


def child(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """What a process of its own finds for one setting; {"failed": why} if it does not end well."""
    if setting["attention"] == "flash_attention_2" and not importlib.util.find_spec("flash_attn"):
        return {"failed": "the package flash_attn is not installed"}
    asked = json.dumps({name: setting[name] for name in ("attention", "checkpointing", "micro")})
    call = [sys.executable, str(Path(__file__).with_name("training.py")), "--gpu", "--one", asked]
    call += ["--shape", arguments.shape, "--base", str(arguments.base)]
    # One GPU: the Trainer would spread a batch over all that it sees.
    env = os.environ | {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]}
    try:
        done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=60 * MINUTES)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {MINUTES} minutes"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def one(setting: Setting, name: str, folder: Path) -> dict[str, Any]:
    """Train with one setting in this process; returns its numbers. Memory is null without a GPU."""
    import torch
    from transformers import AutoConfig

    base, gpu = folder / name, torch.cuda.is_available()
    if not (base / "model_made").is_file():  # written last: what a killed process leaves is made again
        ways.make_base(base, shape_of(name))
        (base / "model_made").touch()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    training = setting.training.model_copy(update={"base": str(base)})
    shape, batch = flops.from_config(AutoConfig.from_pretrained(base)), training.global_batch
    made = examples(shape.vocab)[: (WARM + STEPS) * batch]
    encoded = tokens.Encoded([str(n) for n in range(len(made))], made, [], [])
    meter, places = ways.Meter(), batches.order(len(made), training.seed, 0, batch, True)
    with tempfile.TemporaryDirectory() as scratch:
        ways.own(training, encoded, meter, Path(scratch))
    ordered = [made[place] for place in places]
    work = ways.Work(base, [], ordered, batch, setting.micro, WARM, STEPS, Path())
    measured, peak = meter.measured(work), train.peak_flops()
    lengths = [len(example["input_ids"]) for example in work.timed]
    speed = train.step_flops(training, shape, lengths, measured.targets) / measured.seconds
    return {
        "device": torch.cuda.get_device_name(0) if gpu else "CPU",
        "tokens_per_s": round(measured.real / measured.seconds, 1),
        "target_tokens_per_s": round(measured.speed, 1),
        "mfu": round(speed / peak, 4) if peak else None,
        **(memory_used(planned(setting, shape, ordered, gpu)) if gpu else {}),
    }


def memory_used(plan: float) -> dict[str, float]:
    """Peak GiB of this process's GPU: of tensors, of the allocator, and with what CUDA itself takes; beside the plan.

    The allocator gives nothing back while it trains, so what the device lacks now is what it lacked at the peak.
    """
    import torch

    free, total = torch.cuda.mem_get_info()
    peak = (total - free) / memory.GIB
    found = {"tensors_gib": torch.cuda.max_memory_allocated() / memory.GIB}
    found |= {"allocator_gib": torch.cuda.max_memory_reserved() / memory.GIB, "peak_gib": peak, "plan_gib": plan}
    return {name: round(value, 2) for name, value in found.items()} | {"plan_over_peak": round(plan / peak, 3)}


def shape_of(name: str) -> Any:
    """The sizes of a shape, as LlamaConfig takes them."""
    if name == "tiny":
        return ways.SIZES["tiny"]
    return records.read_json(paths.FACTS / "llama2_7b_config.json")["config"]


def examples(vocab: int) -> list[dict[str, list[int]]]:
    """Random ids with the lengths of BPO's validation rows, those over 512 left out; labels where theirs are."""
    import numpy

    drawn, made = numpy.random.default_rng(42), []
    for prompt, target in records.read_json(paths.FACTS / "bpo_lengths.json")["rows"]:
        if prompt + target <= ways.LONGEST:
            ids = drawn.integers(3, vocab, prompt + target).tolist()
            made.append({"input_ids": ids, "labels": [tokens.IGNORED] * prompt + ids[prompt:]})
    return made


def planned(setting: Setting, shape: flops.Shape, ordered: list[dict[str, list[int]]], gpu: bool) -> float:
    """GiB that the plan's formulas give for the micro batch that needs most: `bpo plan` takes the longest allowed."""
    training, most = setting.training, 0.0
    own = memory.Setting(None, "none", setting.checkpointing)
    for start in range(0, len(ordered), setting.micro):
        rows = ordered[start : start + setting.micro]
        job = memory.Job(
            shape=shape,
            trained=shape.parameters,
            gpus=1,
            nodes=1,
            tokens=sum(len(row["input_ids"]) for row in rows),
            examples=len(rows),
            targets=ways.targets_of(rows),
            accumulation=training.global_batch // setting.micro,
            attention=setting.attention,
            batching="flat",
            width=memory.width(training, gpu),
            gpu=gpu,
        )
        most = max(most, memory.need(own, job).gpu / memory.GIB)
    return most


def table(found: list[dict[str, Any]]) -> str:
    """The settings as a table of Markdown, for README.md."""
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    for row in sorted(found, key=lambda row: (row["attention"], row["checkpointing"], row["micro"])):
        cells = [row["attention"], "on" if row["checkpointing"] else "off", str(row["micro"])]
        if "failed" in row:
            rows.append([*cells, row["failed"], *[""] * (len(COLUMNS) - 4)])
            continue
        shown = (("tokens_per_s", ".0f"), ("target_tokens_per_s", ".0f"), ("mfu", ".1%"), ("peak_gib", ".1f"))
        shown += (("plan_gib", ".1f"), ("plan_over_peak", ".2f"))
        rows.append(cells + ["-" if row.get(name) is None else format(row[name], how) for name, how in shown])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
