"""One process, two, DeepSpeed, ZeRO 0, 2 and 3, and a plain torch loop: the same losses, and the same when resumed.

All trainings of two processes run in one start of torchrun, since starting takes longer than training.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import train_child

from bpo_utils import tokens
from bpo_utils.training import batches, checkpoint, log, setup

HERE = Path(__file__).parent
STAGES = (None, 0, 2, 3)
SHORT = {"drop_last": False, "epochs": 2, "micro_batch": 4}
SHORT_STAGES = (2, 3)
DECAY = {"weight_decay": 0.1}  # so that a parameter group with the wrong decay would be seen
pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (pip install -e '.[deepspeed]')")


def start(jobs: list[dict], folder: Path, processes: int) -> str:
    """Run jobs of train_child.py in one group of processes; returns what they said."""
    file = folder / f"jobs-{processes}.json"
    file.write_text(json.dumps(jobs), encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(HERE / "train_child.py"), str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(HERE.parent)}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of trainings: two-N uninterrupted, again-N stopped and resumed, fewer-N resumed by one process; one."""
    folder = tmp_path_factory.mktemp("runs")
    # Those without DeepSpeed come first: in one process it cannot be switched off again.
    jobs = []
    for stage in STAGES:
        changes = {"zero_stage": stage, **DECAY}
        again = {"folder": str(folder / f"again-{stage}"), "changes": changes}
        jobs += [{"folder": str(folder / f"two-{stage}"), "changes": changes}, {**again, "stop_at": 7}, again]
        jobs += [{"folder": str(folder / f"fewer-{stage}"), "changes": changes, "stop_at": 7}]
    # 44 pairs, 8 a step, the last step of an epoch with 4: one of two processes has nothing to do there.
    jobs += [
        {"folder": str(folder / f"short-two-{stage}"), "changes": {**SHORT, "zero_stage": stage}}
        for stage in SHORT_STAGES
    ]
    said = start(jobs, folder, processes=2)
    assert said.count("stopped at step 7 as asked") == 8
    one = [{"folder": str(folder / "one"), "changes": DECAY}]
    one += [{"folder": str(folder / "short-one"), "changes": SHORT}]
    one += [{"folder": str(folder / f"fewer-{stage}"), "changes": {"zero_stage": stage, **DECAY}} for stage in STAGES]
    offload = {"optimizer": 2, "all": 3}
    for what, stage in offload.items():
        changes = {"zero_stage": stage, "offload": what, **DECAY}
        one.append({"folder": str(folder / f"offload-{what}"), "changes": changes})
    start(one, folder, processes=1)
    return folder


def losses(folder: Path) -> list[float]:
    steps = log.finished(folder)
    assert [step["step"] for step in steps] == list(range(1, 21))
    return [step["loss"] for step in steps]


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def plain_loop() -> list[float]:
    """The same training without Trainer, DeepSpeed or flattening: what the others must agree with."""
    import torch

    settings = train_child.settings(**DECAY)
    tokenizer = setup.load_tokenizer(settings.base)
    examples = tokens.encode_pairs(tokenizer, train_child.PAIRS, settings.max_length).examples
    model = setup.model(settings, type("Arguments", (), {"bf16": False})())
    decayed = [weight for name, weight in model.named_parameters() if "norm" not in name]
    rest = [weight for name, weight in model.named_parameters() if "norm" in name]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=settings.adam_betas)
    found = []
    for step in range(20):
        places = batches.order(len(examples), settings.seed, step // 5, settings.global_batch, drop_last=True)
        batch = [examples[place] for place in places[8 * (step % 5) : 8 * (step % 5) + 8]]
        count = sum(label != tokens.IGNORED for example in batch for label in example["labels"])
        for group in optimizer.param_groups:  # two steps of warm-up, then linearly to zero
            group["lr"] = settings.learning_rate * min(step / 2, (20 - step) / 18)
        total = 0.0
        for example in batch:
            logits = model(input_ids=torch.tensor([example["input_ids"]])).logits
            summed, _ = batches.summed_loss(logits, torch.tensor([example["labels"]]))
            (summed / count).backward()
            total += summed.item() / count
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        found.append(total)
    return found


@pytest.fixture(scope="module")
def plain():
    return plain_loop()


@pytest.mark.parametrize("name", ["one", "two-None", "two-0", "two-2", "two-3"])
def test_losses_are_those_of_a_plain_torch_loop(runs, plain, name):
    assert losses(runs / name) == pytest.approx(plain, rel=1e-5)
    assert plain[-1] < 0.1 * plain[0]  # something was learnt, so there was something to differ in


@pytest.mark.parametrize("what", ["optimizer", "all"])
def test_off_loaded_training_gives_the_same_losses(runs, plain, what):
    # DeepSpeed's AdamW for the CPU, compiled at the first use, rounds in another way than torch's: 2e-5 after 20 steps.
    assert losses(runs / f"offload-{what}") == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_and_resumed_gives_the_same_weights_bit_for_bit(runs, stage):
    assert weights(runs / f"again-{stage}") == weights(runs / f"two-{stage}")
    assert losses(runs / f"again-{stage}") == losses(runs / f"two-{stage}")


@pytest.mark.parametrize("stage", SHORT_STAGES)
def test_a_short_last_batch_is_the_same_for_any_number_of_processes(runs, stage):
    one, two = ([step["loss"] for step in log.finished(runs / name)] for name in ("short-one", f"short-two-{stage}"))
    assert len(one) == 12 and two == pytest.approx(one, rel=1e-5)


def test_the_log_of_a_resumed_training_is_continuous(runs):
    lines = log.lines(runs / "again-2" / "log.jsonl")
    events = [(line["event"], line["step"]) for line in lines if "event" in line]
    assert events == [
        *(("start", 0), ("evaluation", 5), ("checkpoint", 7), ("stop", 7), ("resume", 7)),
        *(("evaluation", 10), ("evaluation", 15), ("evaluation", 20), ("end", 20)),
    ]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    before, after = (log.events(runs / name, "evaluation") for name in ("two-2", "again-2"))
    assert [line["loss"] for line in before] == [line["loss"] for line in after]


@pytest.mark.parametrize("stage", STAGES)
def test_resumed_by_fewer_processes_gives_the_same_losses_to_rounding(runs, stage):
    # Not bit for bit: one process adds up what two had added up in parts.
    resumed = losses(runs / f"fewer-{stage}")
    assert resumed == pytest.approx(losses(runs / f"two-{stage}"), rel=1e-5)
    assert log.events(runs / f"fewer-{stage}", "resume")[0]["processes"] == 1


def test_validation_loss_is_the_mean_over_all_its_tokens_however_many_processes(runs):
    ends = [log.events(runs / name, "evaluation")[-1]["loss"] for name in ("one", "two-None", "two-2", "two-3")]
    assert ends == pytest.approx([ends[0]] * 4, rel=1e-5)


def test_checkpoints_are_removed_once_the_model_is_written(runs):
    assert not list(runs.glob("*/checkpoints")) and checkpoint.newest(runs / "two-2" / "checkpoints") is None
