"""The miniature's teacher: reads the same teacher prompt as a real one and answers in the same form.

What it writes comes from the feedback: it asks for what the good response gives. It knows how people of this world
ask, but not what they need; a preference pair with the wrong label misleads it, as it would a real teacher.
"""

import hashlib
import random

from bpo_utils import records
from bpo_utils import teacher as forms
from bpo_utils.mini import prompts, rubric, world

MALFORMED = 0.04  # real teachers break the form now and then; so does this one, always at the same prompts


def reply(teacher_prompt: str) -> str:
    """The teacher's reply to one teacher prompt. Raises ValueError if the text is not a teacher prompt."""
    asked_about = forms.parse_teacher_prompt(teacher_prompt)
    rng = random.Random(hashlib.sha256(teacher_prompt.encode()).hexdigest())
    reading = world.read(records.joined(asked_about.prompt, asked_about.context))
    good = [facet for facet in rubric.covered(reading, asked_about.good) if facet]
    bad = [facet for facet in rubric.covered(reading, asked_about.bad) if facet]
    text = forms.teacher_reply(_comparison(good, bad), _optimized(asked_about.prompt, reading, good, rng))
    return _broken(text, rng) if rng.random() < MALFORMED else text


def _optimized(instruction: str, reading: world.Reading, good: list[str], rng: random.Random) -> str:
    if reading.asked or not reading.topic:
        return instruction  # it says all it needs, or the teacher does not know the subject
    if reading.unsafe:
        return prompts.optimized(reading.topic, "", world.needs(reading), rng)
    literal = world.needs(reading)[0]
    return prompts.optimized(reading.topic, reading.intent, list(dict.fromkeys([literal, *good])), rng)


def _comparison(good: list[str], bad: list[str]) -> str:
    more = [facet for facet in good if facet not in bad]
    less = [facet for facet in bad if facet not in good]
    sentences = [f"The good response gives {', '.join(good) or 'little'}."]
    sentences += (
        [f"The bad response leaves out {', '.join(more)}."] if more else ["The two responses cover the same points."]
    )
    sentences += [f"Only the bad response has {', '.join(less)}."] if less else []
    return " ".join(sentences)


def _broken(text: str, rng: random.Random) -> str:
    # The three ways in which real replies break: cut off, no marker, a leaked placeholder.
    way = rng.choice(("cut", "unmarked", "leaked"))
    if way == "cut":
        return text[: len(text) // 2]
    if way == "unmarked":
        return text.split("\n")[0]
    return text.replace("[END]", "[Protected part] [END]")
