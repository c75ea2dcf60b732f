"""Control: the best of k random paraphrases of the seed prompt, chosen on dev. No evidence is shown to the optimizer,
so whatever this gains is won by choosing alone. (ProTeGi's Monte-Carlo baseline, arXiv 2305.03495, section 4.2.)

    U <- the seed and k paraphrases of it
    return the best of U on dev
"""

from bpo_utils.profile import Section
from bpo_utils.search import prompts
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import best
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.propose import Meta, Proposal, propose
from bpo_utils.search.state import Search, note, start

NAME, PAPER, KNOB = "best of k paraphrases", "control", "candidates"


class Settings(Section):
    candidates: int = 64  # k; ours, as many as APE needs to reach a human's level (its Figure 4)
    temperature: float = 1.0  # of the optimizer; ours


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """Calls at most: the seed and every paraphrase on every dev row."""
    return Plan(target=(1 + settings.candidates) * sizes.dev, optimizer=settings.candidates)


def run(search: Search, settings: Settings) -> Candidate:
    """The best of the seed and its paraphrases on dev."""
    seed = start(search)
    meta = Meta("paraphrase", prompts.filled("paraphrase", instruction=seed.text))
    one = Proposal(meta, (seed,), "paraphrase")
    pool = [seed, *propose(search, [one], prompts.plain, settings.candidates, settings.temperature)]
    found = best(search, pool, search.task.dev)[0]
    for count in range(1, len(pool) + 1):
        note(search, best(search, pool[:count], search.task.dev)[0], count * len(search.task.dev))
    return found
