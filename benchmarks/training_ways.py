"""The ways to train that training.py compares, each through its own real code, and one meter for all of them."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils import data, filters, pairs, paths, profile, records, teacher, tokens, train
from bpo_utils.training import batches, flops, log, setup, stop

sys.path.append(str(paths.ROOT / "tests"))
import llama_tokenizer  # the tests' own: Transformers alone would get double spaces wrong

MICRO = 4  # prompts on each GPU, paper, appendix C
LONGEST = 512  # upstream's; longer rows are left out, so that no way cuts what another does not
SIZES = {
    "small": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 32_000,  # Llama 2's
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 4096,
    },
}
OURS = {"processes": 1, "zero_stage": None, "offload": "none", "precision": "auto", "checkpoint_steps": None}
OURS |= {"epochs": 1, "drop_last": True, "max_length": LONGEST, "micro_batch": MICRO}


@dataclass(frozen=True)
class Work:
    """The same work for every way: the pairs that one run sees, in the order in which it sees them."""

    base: Path  # the folder of model and tokenizer
    pairs: list[records.Pair]
    examples: list[dict[str, list[int]]]
    global_batch: int
    micro: int
    warm: int  # optimizer steps that are not timed
    steps: int  # those that are
    scratch: Path

    @property
    def accumulation(self) -> int:
        """Micro batches of one step."""
        return self.global_batch // self.micro

    @property
    def timed(self) -> list[dict[str, list[int]]]:
        """The examples of the timed steps."""
        return self.examples[self.warm * self.global_batch :]


@dataclass(frozen=True)
class Measured:
    """The timed steps of one run: `computed` tokens went through the network, `real` were no padding."""

    seconds: float
    computed: int
    real: int
    targets: int

    @property
    def speed(self) -> float:
        """Target tokens per second."""
        return self.targets / self.seconds


class Meter:
    """What each batch held, and when each step ended, whoever trained."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int]] = []
        self.ends: list[float] = []

    def watch(self, trainer: Any) -> Any:
        """The trainer, with its collator and its steps watched."""
        from transformers import TrainerCallback

        inner, ends = trainer.data_collator, self.ends

        def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
            batch = inner(rows)
            computed, taught = batch["input_ids"].numel(), int((batch["labels"][:, 1:] != tokens.IGNORED).sum())
            real = int(batch["attention_mask"].sum()) if "attention_mask" in batch else computed
            self.batches.append((computed, real, taught))
            return batch

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(time.perf_counter())

        trainer.data_collator = collate
        trainer.add_callback(Clock())
        return trainer

    def measured(self, work: Work) -> Measured:
        """The timed steps. Everything between two steps counts: batches, logging, optimizer."""
        if len(self.ends) != work.warm + work.steps:
            raise RuntimeError(f"{len(self.ends)} steps instead of {work.warm} + {work.steps}")
        first = work.warm * work.accumulation
        counted = self.batches[first : first + work.steps * work.accumulation]
        return Measured(self.ends[-1] - self.ends[work.warm - 1], *map(sum, zip(*counted, strict=True)))


def real_pairs() -> list[records.Pair]:
    """The pairs that notebook 02 makes of BPO's 300 validation rows."""
    run = profile.load("recorded")
    rows = filters.before(data.load_preferences(run), run.filters)[0]
    return pairs.build_pairs(rows, teacher.replay(rows), run.filters)[0]


def make_base(folder: Path, sizes: dict[str, Any]) -> str:
    """Write a Llama of random weights (seeded) and a tokenizer into `folder`; returns which tokenizer it is.

    Llama 2's where $BPO_TOKENIZER_DIR has its llama2_tokenizer.model and the model has words for it, else the
    miniature's, whose 3,072 pieces make the rows longer.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(42)
    gpu = torch.cuda.is_available()
    with torch.device("cuda" if gpu else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    model.to(torch.bfloat16 if gpu else torch.float32).save_pretrained(folder, max_shard_size="5GB")
    known = os.environ.get("BPO_TOKENIZER_DIR")
    if known and sizes["vocab_size"] >= 32_000 and (Path(known) / llama_tokenizer.FILE).is_file():
        llama_tokenizer.build(folder)
        return "Llama 2's tokenizer"
    AutoTokenizer.from_pretrained(setup.base_folder("mini:base")).save_pretrained(folder)
    return "the miniature's tokenizer, 3,072 pieces: rows are longer than with Llama 2's (BPO_TOKENIZER_DIR)"


def work(
    base: Path, found: list[records.Pair], global_batch: int, warm: int, steps: int, seed: int, scratch: Path
) -> Work:
    """As many of the pairs as the steps need, in the order that `seed` gives; too long ones are left out."""
    wanted = (warm + steps) * global_batch
    encoded = tokens.encode_pairs(setup.load_tokenizer(str(base)), found, LONGEST, "leave_out")
    if len(encoded.ids) < wanted:
        raise ValueError(f"{warm} + {steps} steps of {global_batch} need {wanted} pairs, there are {len(encoded.ids)}")
    by_id = {pair.id: pair for pair in found}
    places = batches.order(len(encoded.ids), seed, 0, global_batch, True)[:wanted]
    chosen = [by_id[encoded.ids[place]] for place in places]
    return Work(base, chosen, [encoded.examples[p] for p in places], global_batch, MICRO, warm, steps, scratch)


def own(training: profile.Training, encoded: tokens.Encoded, meter: Meter, folder: Path) -> Any:
    """Train as `train.train` does, with its own trainer, log and stops; only the finished model is not written.

    Writing it would take 27 GB for each measurement of a 7B model.
    """
    what = train.planned(encoded, training, 1) | {"validation_pairs": 0}
    facts = {"settings": {}, "code": train.code(), "commit": "", "versions": {}, "plan": what}
    written, none = log.Log(folder), tokens.Encoded([], [], [], [])
    folder.mkdir(parents=True, exist_ok=True)
    trainer, steering = train.prepare([encoded, none], training, folder, facts, None, written, stop.Requests(folder))
    train.fit(meter.watch(trainer), steering, written, None)
    return trainer


def _of_profile(name: str, work: Work) -> Measured:
    training = profile.load(name).training.model_copy(
        update=OURS | {"base": str(work.base), "global_batch": work.global_batch}
    )
    # Its sampler draws the order itself, from the seed: the rows go in so that it comes out as the others have it.
    places = batches.order(len(work.pairs), training.seed, 0, work.global_batch, True)
    given = [pair for _, pair in sorted(zip(places, work.pairs, strict=True), key=lambda one: one[0])]
    encoded = tokens.encode_pairs(setup.load_tokenizer(training.base), given, LONGEST, training.too_long)
    meter = Meter()
    own(training, encoded, meter, work.scratch / name)
    return meter.measured(work)


def ours(work: Work) -> Measured:
    """Profile paper: no padding, logits where there is a label, the mean over the tokens of the global batch."""
    return _of_profile("paper", work)


def upstream(work: Work) -> Measured:
    """Profile upstream: padded to the longest of 4, logits at every position, the mean of micro-batch means."""
    return _of_profile("upstream", work)


def _arguments(work: Work) -> dict[str, Any]:
    # What the comparison fixes: the same rows in the same order, batch and number of steps; nothing saved or shown.
    chosen = {"per_device_train_batch_size": MICRO, "gradient_accumulation_steps": work.accumulation}
    chosen |= {"max_steps": work.warm + work.steps, "learning_rate": 2e-5, "train_sampling_strategy": "sequential"}
    return chosen | {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}


def _timed(trainer: Any, work: Work) -> Measured:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    meter = Meter()
    meter.watch(trainer).train()
    return meter.measured(work)


def default_collator(work: Work) -> Measured:
    """Transformers' Trainer with its padding collator, its arguments and the model's own loss."""
    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    arguments = TrainingArguments(output_dir=str(work.scratch / "default"), **_arguments(work))
    model, collator = AutoModelForCausalLM.from_pretrained(work.base), setup.load_tokenizer(str(work.base))
    collator = DataCollatorForSeq2Seq(collator)
    return _timed(Trainer(model=model, args=arguments, train_dataset=work.examples, data_collator=collator), work)


def trl(work: Work, **changes: Any) -> Measured:
    """TRL's SFTTrainer on a prompt and a completion in text, with its defaults but for `changes`."""
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    rows = [
        {"prompt": f"<s>{tokens.framed(tokens.REWRITER_FRAME, pair.prompt)}", "completion": f" {pair.optimized_prompt}"}
        for pair in work.pairs
    ]
    arguments = SFTConfig(output_dir=str(work.scratch / "trl"), **_arguments(work), **changes)
    tokenizer = setup.load_tokenizer(str(work.base))
    made = SFTTrainer(str(work.base), arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    return _timed(made, work)


def limit(work: Work) -> tuple[Measured, float]:
    """Forward and backward of our batches and nothing else; and the seconds of clipping and AdamW in as many steps."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work.base).train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    collate, starts = batches.collator("flat", None), range(0, len(work.examples), MICRO)
    made = [collate(work.examples[start : start + MICRO]) for start in starts]
    passes, update = 0.0, 0.0
    for step in range(work.warm + work.steps):
        now = time.perf_counter()
        for batch in made[step * work.accumulation : (step + 1) * work.accumulation]:
            logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
            total, count = batches.summed_loss(logits, batch["labels"])
            (total / count).backward()
        between = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= work.warm:
            passes, update = passes + between - now, update + time.perf_counter() - between
    real = sum(len(example["input_ids"]) for example in work.timed)
    return Measured(passes, real, real, targets_of(work.timed)), update


def targets_of(examples: Sequence[dict[str, list[int]]]) -> int:
    """Tokens of the examples that carry loss."""
    return sum(label != tokens.IGNORED for example in examples for label in example["labels"])


def bound(shape: flops.Shape, examples: Sequence[dict[str, list[int]]]) -> float:
    """Operations of the padded ways over ours, for the examples in this order: how much faster ours could be."""
    lengths = [len(example["input_ids"]) for example in examples]
    rows = [lengths[start : start + MICRO] for start in range(0, len(lengths), MICRO)]
    padded = [max(row) for row in rows for _ in row]
    return flops.training_flops(shape, padded, sum(padded)) / flops.training_flops(shape, lengths, targets_of(examples))
