"""Make the miniature again: tokenizer, base, three answer models, test sets, preference data, learned judge.

    python -m bpo_utils.mini.build            # about 100 minutes on two cores; Ctrl-C and again: goes on where it was
    python -m bpo_utils.mini.build --fresh    # forget unfinished work first

Unfinished work lies in build/mini; what comes out replaces bpo_utils/mini/models and bpo_utils/mini/data.
"""

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

from bpo_utils import paths, records
from bpo_utils.chat import local
from bpo_utils.mini import cards, lessons, models, preference, prompts, rubric, school, world
from bpo_utils.profile import Decoding
from bpo_utils.tokens import ANSWER_FRAME, framed

WORK = paths.ROOT / "build" / "mini"
SEED = 1
# Measured on two cores of a cloud machine that also did other things; the logs beside the models have the seconds.
MINUTES = {"copying": 28, "forms": 15, "base": 10, "weak": 8, "middle": 10, "strong": 17, "data": 3, "judge": 8}
SIZES = {"bpo_test": 200, "dolly": 200, "vicuna": 80, "self_instruct": 252}
LABEL_NOISE = 0.10
SAMPLED = ("weak", "middle", "strong", "strong", "strong", "strong")  # answers drawn for one preference row
# The base's courses (steps, horizon), one after the other. The first and the last end before their rate has fallen to a
# tenth: copying is learnt around step 2,100, keeping passages around step 1,300, and then little is gained.
BASE_COURSES = (
    (school.Course("copying", 5000, 8000, learning_rate=2e-3, warmup=200, seed=SEED), lessons.copying_lesson),
    (school.Course("forms", 3000, 3000, learning_rate=1.5e-3, warmup=100, seed=SEED), lessons.form_lesson),
    (school.Course("base", 1750, 2500, learning_rate=1.5e-3, warmup=100, seed=SEED), lessons.passage_lesson),
)
SOURCES = {  # preference rows by source: how many, register mix, share with a passage, share unsafe
    "mini-alpaca": (900, {"question": 40, "imperative": 60}, 0.6, 0.0),
    "mini-arena": (700, {"keywords": 40, "question": 30, "hurried": 30}, 0.0, 0.05),
    "mini-oasst": (550, {"question": 50, "imperative": 50}, 0.0, 0.0),
    "mini-hh": (550, {"question": 60, "hurried": 40}, 0.0, 0.6),
}


def build() -> None:
    """Run every step that is not finished."""
    tokenizer = models.train_tokenizer(list(lessons.tokenizer_texts()))
    base = models.new(SEED)
    for course, lesson in BASE_COURSES:
        base = school.teach(base, tokenizer, lesson, course, WORK)
    _publish("base", base, tokenizer, [course.name for course, _ in BASE_COURSES])
    for name, strength in lessons.STRENGTHS.items():
        course = school.Course(name, strength.steps, strength.steps, 1e-3, warmup=100, seed=SEED)
        pupil = models.new(SEED)
        pupil.load_state_dict(base.state_dict())
        pupil = school.teach(pupil, tokenizer, lessons.answer_lesson(strength), course, WORK)
        _publish(name, pupil, tokenizer, [name])
    tests = prompts.test_sets(SIZES, SEED)
    for name, rows in tests.items():
        records.write_rows(paths.MINI_DATA / "test" / f"{name}.jsonl", rows)
    taken = {records.joined(row.prompt, row.context).lower() for rows in tests.values() for row in rows}
    rows = list(_preferences(taken))
    records.write_rows(paths.MINI_DATA / "preferences.jsonl", rows)
    _judge(base, tokenizer, rows)


def _publish(name: str, model: Any, tokenizer: Any, courses: list[str]) -> None:
    folder, log = paths.MINI_MODELS / name, []
    for course in courses:
        lines = (WORK / f"{course}.log.jsonl").read_text(encoding="utf-8").splitlines()
        log += [{"course": course} | json.loads(line) for line in lines]
    models.save(model, tokenizer, folder)
    records.write_text(folder / "log.jsonl", "".join(f"{json.dumps(entry)}\n" for entry in log))
    card = cards.base(model, log, SEED) if name == "base" else cards.answer_model(name, model, log, SEED)
    records.write_text(folder / "README.md", card)


def _preferences(taken: set[str]) -> Any:
    # Best against worst of six samples, as the paper does with OASST1; rows whose six answers are all worth the
    # same are dropped.
    rng = random.Random(SEED)
    pool = (world.training_topics(), world.training_threats())
    asked = []
    for source, (count, mix, with_passage, unsafe) in SOURCES.items():
        drawn = 0
        while drawn < count:
            instruction, context, _ = prompts.draw(mix, with_passage, unsafe, pool, rng)
            if records.joined(instruction, context).lower() not in taken:
                asked.append((source, instruction, context))
                drawn += 1
    rng.shuffle(asked)  # so that the first rows of the file are a fair sample of all sources
    texts = [records.joined(instruction, context) for _, instruction, context in asked]
    samples = [_sampled(name, texts, seed) for seed, name in enumerate(SAMPLED)]
    number = 0
    for (source, instruction, context), text, *answers in zip(asked, texts, *samples, strict=True):
        order = sorted(answers, key=lambda answer: (_worth(text, answer), answer))
        if _worth(text, order[0]) == _worth(text, order[-1]):
            continue
        bad, good = (order[0], order[-1]) if rng.random() >= LABEL_NOISE else (order[-1], order[0])
        number += 1
        yield records.Preference(f"pref-{number:04d}", instruction, context, good, bad, source)


def _worth(text: str, answer: str) -> tuple[bool, int]:
    score = rubric.score(text, answer)
    return not score.harmful, score.points


def _sampled(name: str, texts: list[str], seed: int) -> list[str]:
    decoding = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=128, batch_size=128, seed=seed)
    model, tokenizer = local.load(paths.MINI_MODELS / name)
    return local.generate(model, tokenizer, [framed(ANSWER_FRAME, text) for text in texts], decoding)


def _judge(base: Any, tokenizer: Any, rows: list[records.Preference]) -> None:
    judge, log = preference.new(base), []
    for entry in preference.train(judge, tokenizer, rows, epochs=3, learning_rate=5e-4, seed=SEED):
        print(f"judge: {entry}", flush=True)
        log.append(entry)
    models.save(judge, tokenizer, paths.MINI_MODELS / "judge")
    records.write_text(paths.MINI_MODELS / "judge" / "log.jsonl", "".join(f"{json.dumps(entry)}\n" for entry in log))
    records.write_text(paths.MINI_MODELS / "judge" / "README.md", cards.judge(judge, log, SEED))


def main() -> None:
    """Say how long it takes, then build."""
    import torch

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--fresh", action="store_true", help="forget unfinished work and begin again")
    if parser.parse_args().fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    steps = ", ".join(f"{name} {minutes}" for name, minutes in MINUTES.items())
    print(f"about {sum(MINUTES.values())} minutes on two cores ({steps}); Ctrl-C keeps what is done", flush=True)
    torch.set_num_threads(2)  # the number of threads changes the last digits, so it is part of the recipe
    Path(WORK).mkdir(parents=True, exist_ok=True)
    build()


if __name__ == "__main__":
    main()
