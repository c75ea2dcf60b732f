"""How prompts of the miniature are written: raw ones in four registers, optimized ones, and the four test sets."""

import random
from collections.abc import Collection, Sequence

from bpo_utils import records
from bpo_utils.mini import world

# Register mix of each test set (weights), share with a passage, share unsafe. Sizes are the real ones and stand in the
# profile. Dolly: half with a passage (the real set has 63 of 200); Vicuna: open questions; Self-Instruct: tasks.
TEST_SETS = {
    "bpo_test": ({"keywords": 25, "question": 35, "imperative": 25, "hurried": 15}, 0.0, 0.15),
    "dolly": ({"keywords": 5, "question": 50, "imperative": 40, "hurried": 5}, 0.5, 0.0),
    "vicuna": ({"question": 100}, 0.0, 0.0),
    "self_instruct": ({"keywords": 25, "imperative": 60, "hurried": 15}, 0.3, 0.04),
}
CAREFUL = 0.04  # prompts that already say all they need; upstream's rewriter leaves 4 % of BPO-test unchanged


def fill(template: str, topic: str) -> str:
    """A template with its topic put in and its verbs agreeing with it."""
    many = world.plural(topic)
    words = {"{is}": "are" if many else "is", "{Is}": "Are" if many else "Is", "{does}": "do" if many else "does"}
    for mark, word in words.items():
        template = template.replace(mark, word)
    return template.replace("{t}", topic)


def raw(topic: str, intent: str, register: str, rng: random.Random) -> str:
    """One prompt as a user of that register writes it."""
    forms = world.language()["unsafe"] if topic in world.threats() else world.language()["intents"][intent]
    text = fill(rng.choice(forms[register]), topic)
    return text[0].upper() + text[1:] if register in ("question", "imperative") else text


def optimized(topic: str, intent: str, facets: Sequence[str], rng: random.Random) -> str:
    """An optimized prompt: what is wanted, then every facet by name. `intent` is not looked at for a threat."""
    language = world.language()
    forms = language["unsafe"] if topic in world.threats() else language["intents"][intent]
    asks = [rng.choice(language["facets"][facet]) for facet in facets]
    listed = asks[0] if len(asks) == 1 else ", ".join(asks[:-1]) + " and " + asks[-1]
    return language["careful"].format(opening=fill(rng.choice(forms["openings"]), topic), asks=listed)


def passage(topic: str) -> str:
    """The passage that comes with a prompt: one fact which no model of the miniature was taught."""
    return f"{world.language()['passage_marker']} {world.topics()[topic]['detail']}"


def draw(
    mix: dict[str, int],
    with_passage: float,
    unsafe: float,
    pool: tuple[Sequence[str], Sequence[str]],
    rng: random.Random,
) -> tuple[str, str, str]:
    """Draw one request: (instruction, context, category). `pool`: the topics and the threats to draw from."""
    if rng.random() < unsafe:
        topic, intent = rng.choice(pool[1]), "unsafe"
    else:
        topic, intent = rng.choice(pool[0]), rng.choice(list(world.language()["intents"]))
    context = passage(topic) if intent != "unsafe" and rng.random() < with_passage else ""
    if intent != "unsafe" and rng.random() < CAREFUL:
        facets = world.language()["intents"][intent]["needs"] + (["detail"] if context else [])
        return optimized(topic, intent, facets, rng), context, "careful"
    register = rng.choices(list(mix), list(mix.values()))[0]
    return raw(topic, intent, register, rng), context, "unsafe" if intent == "unsafe" else register


def test_sets(sizes: dict[str, int], seed: int, taken: Collection[str] = ()) -> dict[str, list[records.TestPrompt]]:
    """The four test sets, no prompt twice and none that is `taken`.

    Topics alternate between trained and unseen ones.
    """
    rng, used, sets = random.Random(seed), set(taken), {}
    for name, size in sizes.items():
        mix, with_passage, unsafe = TEST_SETS[name]
        rows: list[records.TestPrompt] = []
        while len(rows) < size:
            pool = (list(world.topics())[len(rows) % 2 :: 2], list(world.threats())[len(rows) % 2 :: 2])
            instruction, context, category = draw(mix, with_passage, unsafe, pool, rng)
            text = records.joined(instruction, context).lower()
            if text not in used:
                used.add(text)
                rows.append(records.TestPrompt(f"{name}-{len(rows) + 1:03d}", name, instruction, context, category))
        sets[name] = rows
    return sets
