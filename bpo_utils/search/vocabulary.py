"""What the program in the optimizer's place knows before it is shown anything: words for what can be asked for.

It knows how one asks for a thing, not whether anybody needs it; that it must find in the meta-prompt. An `idea` is one
thing that an instruction can ask for: a facet of the miniature's world, or a phrase of the synthetic landscape.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """Ideas, the ways to ask for each, and how an answer is read: `given(input, answer)` names the ideas that an answer
    gives, "" for each part of it that is wrong."""

    phrases: dict[str, tuple[str, ...]]
    given: Callable[[str, str], list[str]]

    @property
    def ideas(self) -> list[str]:
        """All ideas, in the vocabulary's order."""
        return list(self.phrases)

    def found(self, text: str) -> list[str]:
        """The ideas that a text asks for, in the order of their first mention."""
        low = text.lower()
        places = {idea: [low.find(phrase) for phrase in forms if phrase in low] for idea, forms in self.phrases.items()}
        return sorted((idea for idea in places if places[idea]), key=lambda idea: min(places[idea]))

    def instruction(self, ideas: Sequence[str], rng: random.Random) -> str:
        """One sentence that asks for these ideas."""
        asks = [rng.choice(self.phrases[idea]) for idea in ideas]
        listed = asks[0] if len(asks) == 1 else ", ".join(asks[:-1]) + " and " + asks[-1]
        return f"{listed[0].upper()}{listed[1:]}."

    def missing(self, text: str, answer: str, reference: str) -> list[str]:
        """The ideas that the reference gives and the answer does not."""
        given = self.given(text, answer)
        return [idea for idea in self.given(text, reference) if idea and idea not in given]


def of(name: str) -> Vocabulary:
    """`facets`: the miniature's world; `phrases`: the synthetic landscape. Raises ValueError for another name."""
    if name == "facets":
        from bpo_utils.mini import rubric, world

        forms = {facet: tuple(words) for facet, words in world.language()["facets"].items()}
        return Vocabulary(forms, lambda text, answer: list(rubric.covered(world.read(text), answer)))
    if name == "phrases":
        from bpo_utils.search import landscape

        forms = {phrase: (phrase,) for phrase in landscape.PHRASES}
        return Vocabulary(forms, lambda text, answer: re.findall(r"did: ([a-z ]+)", answer))
    raise ValueError(f"the program knows no vocabulary {name!r}; it knows facets and phrases")
