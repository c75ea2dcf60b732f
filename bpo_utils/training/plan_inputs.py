"""What a plan is made from: the model's sizes, the lengths of the data, the GPUs. Each comes with where it is from."""

import re
from dataclasses import dataclass
from typing import Any

from bpo_utils import paths, quiet, records
from bpo_utils.profile import Profile
from bpo_utils.training import flops, gpus, setup

LLAMA = re.compile(r"(^|/)llama-2-7b(-chat)?(-hf)?$", re.IGNORECASE)  # all of one architecture
ROWS = 13895  # THUDM/BPO: 14,395 rows less 200 for the test and 300 for validation (paper, table 1)
STANDARD = "a800-80"  # the paper trained on eight of them (appendix C)


@dataclass(frozen=True)
class Lengths:
    """Tokens of each training example, and how many of them carry loss."""

    all: list[int]
    targets: list[int]
    source: str


def model(base: str) -> tuple[flops.Shape, str]:
    """The shape of a base model, and where its configuration is from.

    A Hub id of Llama 2 7B that is not in the Hub's cache gets the sizes that come with the package: the model is gated,
    and the network is not asked for what is known. Raises ValueError if another configuration cannot be had.
    """
    quiet.transformers()
    from transformers import AutoConfig, LlamaConfig

    folder, shipped = setup.base_folder(base), paths.FACTS / "llama2_7b_config.json"
    known = bool(LLAMA.search(base))
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=known)
    except OSError as error:
        if not known:
            told = str(error).strip().splitlines()[0]
            raise ValueError(
                f"the configuration of {base} cannot be read ({told}); give a folder that has its config.json, or "
                f"fetch it once: hf download {base} config.json"
            ) from error
        config = LlamaConfig(**records.read_json(shipped)["config"])
        source = f"{paths.shown(shipped)}, because {base} is not in the Hub's cache here"
        return flops.from_config(config), source
    return flops.from_config(config), f"config.json of {base.removeprefix('mini:')}"


def lengths(run: Profile) -> Lengths:
    """Lengths of the run's training pairs; of the shipped measurement of real rows where the run has no pairs yet."""
    path = paths.run_dir(run.name) / "02_pairs" / "pairs.jsonl"
    pairs = records.read_rows(path, records.Pair) if path.is_file() else None
    if pairs is None and run.data.source == "miniature":
        pairs = _miniature(run)
    tokenizer = _tokenizer(run.training.base) if pairs is not None else None
    if pairs is None or tokenizer is None:
        return _measured(run, pairs)
    from bpo_utils import tokens

    encoded = tokens.encode_pairs(tokenizer, pairs, run.training.max_length, run.training.too_long).examples
    made = paths.shown(path) if path.is_file() else "the miniature's data, as notebook 02 makes its pairs"
    return Lengths(
        [len(example["input_ids"]) for example in encoded],
        [sum(label != tokens.IGNORED for label in example["labels"]) for example in encoded],
        f"{len(pairs):,} pairs of {made}, with the base's tokenizer",
    )


def _miniature(run: Profile) -> list[records.Pair]:
    from bpo_utils import chat, data, filters, pairs, teacher

    rows = filters.before(data.load_preferences(run), run.filters)[0]
    asked = [teacher.teacher_prompt(row, run.teacher.feedback) for row in rows]
    return pairs.build_pairs(rows, chat.ask(run.teacher.as_model, asked), run.filters)[0]


def _tokenizer(base: str) -> Any:
    quiet.transformers()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(setup.base_folder(base), local_files_only=True)
    except OSError:
        return None  # the plan then says that the shipped lengths were used, and why


def _measured(run: Profile, pairs: list[records.Pair] | None) -> Lengths:
    file = paths.FACTS / "bpo_lengths.json"
    facts, training = records.read_json(file), run.training
    count = len(pairs) if pairs is not None else min(ROWS, run.data.train_rows or ROWS)
    why = f"the tokenizer of {training.base} is not here" if pairs is not None else "this run has no pairs yet"
    every, targets = [], []
    for number in range(count):
        prompt, target = facts["rows"][number % facts["n"]]
        if prompt + target > training.max_length and training.too_long == "leave_out":
            continue
        every.append(min(prompt + target, training.max_length))
        targets.append(min(target, training.max_length))
    source = f"{count:,} rows with the lengths of {facts['n']} real ones ({paths.shown(file)}), because {why}"
    return Lengths(every, targets, source)


def gpu(name: str | None, run: Profile) -> tuple[gpus.Gpu | None, str]:
    """The GPU to plan for, and why this one: the one asked for, else this machine's, else the paper's.

    None for a profile that trains here, on a machine without a known GPU. Raises ValueError for an unknown `name`.
    """
    if name:
        return gpus.named(name), "as asked"
    import torch

    here = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    found = gpus.find(here) if here else None
    if found:
        return found, "found on this machine"
    why = f"this machine's {here} is not in the table of GPUs" if here else "this machine has no GPU"
    if run.training.launch == "here":
        return None, f"{why}, and the profile trains here"
    return gpus.named(STANDARD), f"assumed, because {why}; --gpu names another"
