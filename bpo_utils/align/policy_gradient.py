"""Policy gradient with a learned reward: RLOO (Ahmadian et al. 2024, arXiv 2402.14740), REINFORCE with a baseline.

Several answers are drawn for a prompt. What counts for an answer is reward - beta * (log pi - log ref), the reward less
an estimate of the KL to the model as it was; its advantage is that less the mean of the prompt's other answers (leave
one out). The loss is -mean(advantage * log pi(answer)), one step on answers drawn from the model as it is. This is not
PPO: there is no value network, and no clipping, since no answer is used twice. The paper (section 4.3) used PPO of
DeepSpeed-Chat; TRL no longer has PPO, and RLOO is the nearest of its trainers: the same reward, KL and samples.
"""

import random
from collections.abc import Callable
from typing import Any

from bpo_utils.align import dpo, policy

CHUNK = 16  # answers in one pass, of similar length

Reward = Callable[[list[tuple[str, str]]], list[float]]  # (question, answer) -> score


def advantages(rewards: Any) -> Any:
    """Reward less the mean reward of the prompt's other answers; `rewards` is [prompts, answers of a prompt].

    Raises ValueError for one answer per prompt, which has no others.
    """
    count = rewards.shape[1]
    if count < 2:
        raise ValueError(f"the baseline needs at least 2 answers per prompt, there is {count}; raise `samples`")
    return rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / (count - 1)


def train(
    model: Any,
    reference: Any,
    tokenizer: Any,
    prompts: list[str],
    reward: Reward,
    settings: dict[str, Any],
    seed: int,
    look: Callable[[int], None],
) -> list[dict[str, float]]:
    """Train on prompts; returns the log, a dict for every step. `look(step)` is called to measure."""
    import torch

    torch.manual_seed(seed)
    rng, steps = random.Random(seed), settings["steps"]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=settings["learning_rate"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: dpo.rate(step, steps))
    log, waiting = [], []
    look(0)
    for step in range(1, steps + 1):
        while len(waiting) < settings["prompts"]:
            waiting += rng.sample(prompts, len(prompts))
        asked, waiting = waiting[: settings["prompts"]], waiting[settings["prompts"] :]
        log.append({"step": step} | _step(model, reference, tokenizer, asked, reward, settings))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step in dpo.looked_at(steps, settings["looks"]):
            look(step)
    return log


def _step(
    model: Any, reference: Any, tokenizer: Any, asked: list[str], reward: Reward, settings: dict[str, Any]
) -> dict[str, float]:
    """Gradients of one batch of prompts; returns the means of reward and log ratio."""
    import torch

    groups = policy.drawn(model, tokenizer, asked, settings["samples"], settings["max_new_tokens"])
    rows = [row for group in groups for row in group]
    texts = [(text, policy.text_of(tokenizer, row)) for text, group in zip(asked, groups, strict=True) for row in group]
    scores = torch.tensor(reward(texts))
    ordered = sorted(range(len(rows)), key=lambda n: (len(rows[n]["input_ids"]), n))
    parts = [ordered[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    pad = tokenizer.eos_token_id
    now = torch.cat([policy.log_probabilities(model, [rows[n] for n in part], pad) for part in parts])
    with torch.no_grad():
        before = torch.cat([policy.log_probabilities(reference, [rows[n] for n in part], pad) for part in parts])
        ratios = torch.empty(len(rows)).index_copy(0, torch.tensor(ordered), now.detach() - before)
        gain = advantages((scores - settings["beta"] * ratios).reshape(len(asked), -1)).flatten()
    (-(gain[ordered] * now).mean()).backward()
    return {"reward": scores.mean().item(), "log_ratio": ratios.mean().item()}
