"""BPO as data augmentation (paper, section 4.4, Table 6): who learns from answers to optimized prompts answers better.

The paper rewrites Alpaca's 52k instructions, has text-davinci-003 answer them, and trains llama-7b and llama-13b; the
same model trained on the original 52k is the other side, and 1k of the new rows is the small size. It does not say
whether a training row holds the original or the optimized instruction. Ours holds the original one: the trained model
is asked original prompts, and what it shall learn is to answer them as if they had been optimized.
"""

import random
from pathlib import Path
from typing import Any

from bpo_utils import profile, records, tokens
from bpo_utils.tokens import ANSWER_FRAME, framed


def instruction_set(count: int, seed: int, taken: set[str]) -> list[records.TestPrompt]:
    """`count` prompts of the miniature that nobody was trained on: drawn like its preference rows, none of them again.

    From the same sources in the same shares and, as those, about the training topics only, so that the topics of
    half the test prompts stay unseen. `taken`: prompts that must not come, in lower case. Raises ValueError if there
    are not so many.
    """
    from bpo_utils.mini import build, prompts, world

    rng, used, rows = random.Random(f"instructions {seed}"), set(taken), []
    pool = (world.training_topics(), world.training_threats())
    shares = [source[0] for source in build.SOURCES.values()]
    for _ in range(100 * count):
        if len(rows) == count:
            return rows
        (_, mix, with_passage, unsafe) = rng.choices(list(build.SOURCES.values()), shares)[0]
        instruction, context, category = prompts.draw(mix, with_passage, unsafe, pool, rng)
        text = records.joined(instruction, context).lower()
        if text not in used:
            used.add(text)
            rows.append(records.TestPrompt(f"instruction-{len(rows) + 1:04d}", "set", instruction, context, category))
    raise ValueError(f"the miniature has only {len(rows)} new prompts of {count}; lower aligning.instructions.full")


def training_rows(
    rewrites: list[records.Rewrite], answers: list[records.Answer], side: str, count: int | None = None
) -> list[dict[str, str]]:
    """Rows {prompt, answer}: the original prompt with the answer to the prompt of `side`.

    `count`: only the first of them. An instruction without an answer on either side is in no set, so that the sets
    differ in their answers alone.
    """
    found = {(row.id, row.side): row for row in answers if row.text and row.outcome == "answered"}
    whole = [row for row in rewrites if all((row.id, each) in found for each in ("original", row.rewriter))]
    return [{"prompt": row.prompt, "answer": found[row.id, side].text} for row in whole[:count]]


def train(base: str, rows: list[dict[str, str]], training: profile.Training, folder: Path) -> tuple[Any, Any]:
    """Fine-tune a base model on {prompt, answer} with the Trainer of notebook 03; returns (model, tokenizer).

    Works in `folder`; loss on the answers only. Raises ValueError if no row fits into training.max_length.
    """
    from bpo_utils import train as machinery
    from bpo_utils.training import stop
    from bpo_utils.training.log import Log

    training = training.model_copy(update={"base": base})
    tokenizer = machinery.load_tokenizer(base)
    examples = [tokens.encode(tokenizer, framed(ANSWER_FRAME, row["prompt"]), row["answer"]) for row in rows]
    fitting = [row for row in examples if len(row["input_ids"]) <= training.max_length]
    if not fitting:
        raise ValueError(f"none of {len(rows)} rows fits into max_length = {training.max_length}; raise it")
    names = [str(number) for number in range(len(fitting))]
    left_out = [str(number) for number in range(len(examples) - len(fitting))]
    encoded, nothing = tokens.Encoded(names, fitting, [], left_out), tokens.Encoded([], [], [], [])
    facts = {"plan": machinery.planned(encoded, training, 1) | {"validation_pairs": 0}}
    facts |= {"settings": {}, "code": "", "commit": "", "versions": {}}
    log = Log(folder)
    requests = stop.Requests(folder)
    trainer, steering = machinery.prepare([encoded, nothing], training, folder, facts, None, log, requests)
    machinery.fit(trainer, steering, log, None)
    return trainer.model.eval(), tokenizer
