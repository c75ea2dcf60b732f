"""Teaching a tiny model: one plain training loop, resumable because lesson k depends on the seed and k alone."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils.records import write_text
from bpo_utils.tokens import IGNORED

BATCH = 32
GROUP = 8  # lessons are drawn for 8 batches at a time and sorted by length, so that a batch holds little padding
SAVE_EVERY = 250


@dataclass(frozen=True)
class Course:
    """One training: how long, how fast. AdamW (0.9, 0.999), linear warm-up, then linear decay.

    The rate would reach a tenth at step `horizon`; a course may end before that.
    """

    name: str
    steps: int
    horizon: int
    learning_rate: float
    warmup: int
    seed: int


def teach(
    model: Any,
    tokenizer: Any,
    lesson: Callable[[random.Random, Any], tuple[list[int], list[int]]],
    course: Course,
    folder: Path,
) -> Any:
    """Train `model` on lessons and return it.

    Progress lies in `folder`; interrupted and called again, it goes on there.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=course.learning_rate, betas=(0.9, 0.999), weight_decay=0.0)
    log, started = folder / f"{course.name}.log.jsonl", time.perf_counter()
    step, lines = _resume(model, optimizer, folder / f"{course.name}.safetensors", log)
    model.train()
    losses: list[float] = []
    while step < course.steps:
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, course)
        ids, labels, mask = _batch(lesson, tokenizer, course.seed, step)
        loss = model(input_ids=ids, labels=labels, attention_mask=mask).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        step += 1
        if step % SAVE_EVERY == 0 or step == course.steps:
            entry = {
                "step": step,
                "loss": round(sum(losses) / len(losses), 4),
                "seconds": round(time.perf_counter() - started, 1),
            }
            lines.append(json.dumps(entry))
            losses, started = [], time.perf_counter()
            print(f"{course.name}: {lines[-1]}", flush=True)
            _save(model, optimizer, step, folder / f"{course.name}.safetensors")
            write_text(log, "\n".join(lines) + "\n")
    return model.eval()


def _rate(step: int, course: Course) -> float:
    if step < course.warmup:
        return course.learning_rate * (step + 1) / course.warmup
    done = (step - course.warmup) / max(1, course.horizon - course.warmup)
    return course.learning_rate * (1 - 0.9 * done)


def _batch(lesson: Callable[..., Any], tokenizer: Any, seed: int, step: int) -> tuple[Any, Any, Any]:
    import torch

    group, place = divmod(step, GROUP)
    rng = random.Random(f"{seed}-{group}")
    lessons = sorted(
        (lesson(rng, tokenizer) for _ in range(BATCH * GROUP)), key=lambda pair: len(pair[0]) + len(pair[1])
    )
    order = random.Random(group).sample(range(GROUP), GROUP)  # not always the short ones first
    chosen = lessons[order[place] * BATCH : (order[place] + 1) * BATCH]
    rows = [([tokenizer.bos_token_id, *prompt], [*target, tokenizer.eos_token_id]) for prompt, target in chosen]
    width = max(len(prompt) + len(target) for prompt, target in rows)
    pads = [width - len(prompt) - len(target) for prompt, target in rows]
    end = tokenizer.eos_token_id
    ids = [prompt + target + [end] * pad for (prompt, target), pad in zip(rows, pads, strict=True)]
    labels = [[IGNORED] * len(p) + t + [IGNORED] * pad for (p, t), pad in zip(rows, pads, strict=True)]
    mask = [[1] * (width - pad) + [0] * pad for pad in pads]
    return torch.tensor(ids), torch.tensor(labels), torch.tensor(mask)


def _save(model: Any, optimizer: Any, step: int, path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {f"weight.{name}": value.detach() for name, value in model.named_parameters()}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"first.{name}": state["exp_avg"], f"second.{name}": state["exp_avg_sq"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata={"step": str(step)})
    unfinished.replace(path)


def _resume(model: Any, optimizer: Any, path: Path, log: Path) -> tuple[int, list[str]]:
    import torch
    from safetensors import safe_open

    if not path.is_file():
        return 0, []
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        for name, parameter in model.named_parameters():
            parameter.data.copy_(file.get_tensor(f"weight.{name}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"first.{name}"),
                "exp_avg_sq": file.get_tensor(f"second.{name}"),
            }
    lines = [line for line in log.read_text(encoding="utf-8").split("\n") if line] if log.is_file() else []
    return step, [line for line in lines if json.loads(line)["step"] <= step]
