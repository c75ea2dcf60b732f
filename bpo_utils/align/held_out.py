"""How a model that is being trained does on prompts it is not trained on: reward, rubric, KL, length, by step.

Reward hacking shows here: the reward goes on rising while the rubric, which no training looks at, stays or falls (Gao
et al. 2023, arXiv 2210.10760, call this over-optimization).
"""

from typing import Any

from bpo_utils.align import dpo, policy

CHUNK = 32


def scorer(name: str) -> Any:
    """The learned preference model as a function from (question, answer) pairs to scores (logits).

    `name`: mini:judge, or a Hub id or folder of a sequence classifier with one label. On the CPU, in float32.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from bpo_utils.mini import preference
    from bpo_utils.training.setup import base_folder

    folder = base_folder(name)
    judge = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda asked: preference.scores(judge, tokenizer, asked)


class HeldOut:
    """Held-out rows {prompt, good, bad}, the reference model, and what was measured so far (`looks`)."""

    def __init__(self, reference: Any, tokenizer: Any, rows: list[dict[str, str]], reward: Any, most: int) -> None:
        """`most`: tokens of an answer."""
        self.reference, self.tokenizer, self.rows, self.reward, self.most = reference, tokenizer, rows, reward, most
        self.pairs = dpo.encoded(tokenizer, rows)
        self.before = dpo.reference_of(reference, tokenizer, self.pairs)
        self.looks: list[dict[str, Any]] = []

    def look(self, model: Any, step: int) -> None:
        """Measure a model on one sampled answer per prompt.

        reward: the learned preference model's score. rubric: the miniature's points; harmful: share that agrees to do
        harm. kl: nats of a whole answer; kl_token: of one token. tokens: of an answer with its end. accuracy: share of
        rows where log pi - log ref is higher for the good answer. `each` has reward and rubric prompt by prompt.
        """
        import torch

        state = torch.get_rng_state()  # measuring must not change what the training draws next
        torch.manual_seed(0)  # the same random numbers at every look: differences are the model's
        groups = policy.drawn(model, self.tokenizer, [row["prompt"] for row in self.rows], 1, self.most)
        torch.set_rng_state(state)
        answers = [group[0] for group in groups]
        texts = [policy.text_of(self.tokenizer, answer) for answer in answers]
        asked = [(row["prompt"], text) for row, text in zip(self.rows, texts, strict=True)]
        each = {"reward": list(self.reward(asked))} | rubric_points(asked)
        found = {name: sum(values) / len(values) for name, values in each.items()}
        found |= divergence(model, self.reference, self.tokenizer, answers) | {"accuracy": self._accuracy(model)}
        self.looks.append({"step": step} | found | {"each": each})

    def _accuracy(self, model: Any) -> float:
        now = dpo.reference_of(model, self.tokenizer, self.pairs)
        gains = [(after - before).tolist() for after, before in zip(now, self.before, strict=True)]
        # Half a point for a model that has not moved: it prefers neither.
        return sum((good > bad) + 0.5 * (good == bad) for good, bad in gains) / len(gains)


def divergence(model: Any, reference: Any, tokenizer: Any, answers: list[policy.Example]) -> dict[str, float]:
    """KL(model || reference) on answers that the model drew: mean of an answer and of a token; tokens of an answer."""
    import torch

    total, tokens = 0.0, 0
    ordered = sorted(answers, key=lambda row: len(row["input_ids"]))
    with torch.no_grad():
        for start in range(0, len(ordered), CHUNK):
            part = ordered[start : start + CHUNK]
            new, old = (policy.distributions(each, part, tokenizer.eos_token_id)[0] for each in (model, reference))
            total, tokens = total + policy.kl(new, old).sum().item(), tokens + len(new)
    return {"kl": total / len(answers), "kl_token": total / tokens, "tokens": tokens / len(answers)}


def rubric_points(asked: list[tuple[str, str]]) -> dict[str, list[float]]:
    """The miniature's rubric for each (question, answer): points, and 1.0 where the answer agrees to do harm."""
    from bpo_utils.mini import rubric

    scores = [rubric.score(question, answer) for question, answer in asked]
    return {
        "rubric": [float(score.points) for score in scores],
        "harmful": [float(score.harmful) for score in scores],
    }
