"""The reference rewrite: what a rewriter would write that knew all needs of the author.

The upper bound in the results.
"""

import random

from bpo_utils import records
from bpo_utils.mini import prompts, world


def rewrite(prompt: records.TestPrompt) -> str:
    """The prompt with every needed facet asked for, passage kept.

    A prompt that already asks for facets stays as it is.
    """
    original = records.joined(prompt.prompt, prompt.context)
    reading = world.read(original)
    if reading.asked or not reading.topic:
        return original
    text = prompts.optimized(reading.topic, reading.intent, world.needs(reading), random.Random(prompt.id))
    return records.joined(text, prompt.context)
