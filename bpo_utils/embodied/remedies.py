"""The two remedies, and the controls that tell what of them needs a model.

Augmentation multiplies the wordings of the demonstrations; the module turns what is said into the canonical sentence.
Both use the project's rewriter, fine-tuned by notebook 03's own code on the embodied pairs, in one direction each.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bpo_utils import paths, records, rewrite, rewriters
from bpo_utils.embodied.policy import NO_WORD
from bpo_utils.embodied.wordings import TASKS, Bank, canonical, pairs
from bpo_utils.embodied.world import Episode
from bpo_utils.further.trials import Trial
from bpo_utils.profile import Profile, Rewriting
from bpo_utils.records import Pair
from bpo_utils.training import checkpoint

TOKENS = 28  # of a rewritten instruction; the longest sentence of the bank has 24
TEMPERATURE = 0.7  # of paraphrases; seed 1: 93 % right, 21 different ones of 24 samples (at 1.0: 90 %)
RIDGE = 0.01


def joint(run: Profile, bank: Bank, seed: int) -> Trial:
    """The module: notebook 03's training, its settings and base, on its pairs and the embodied ones together."""
    own = records.read_rows(paths.stage_dir(run.name, "02_pairs") / "pairs.jsonl", Pair)
    return _trial(run, "joint", [*own, *pairs(bank, run.embodying.pairs, seed)], seed, {})


def continued(run: Profile, bank: Bank, count: int, seed: int) -> Trial:
    """A quicker module: notebook 03's rewriter goes on with `count` embodied pairs and some of its own (rehearsal)."""
    own = records.read_rows(paths.stage_dir(run.name, "02_pairs") / "pairs.jsonl", Pair)
    if run.embodying.rehearsal > len(own):
        raise ValueError(
            f"embodying.rehearsal is {run.embodying.rehearsal}, but notebook 02 made {len(own)} pairs; lower it"
        )
    kept = random.Random(seed).sample(own, run.embodying.rehearsal)
    return _trial(run, f"pairs{count}", [*kept, *pairs(bank, count, seed)], seed, _onwards(run))


def paraphraser(run: Profile, bank: Bank, seed: int) -> Trial:
    """The augmenter: notebook 03's rewriter goes on with embodied pairs the other way round."""
    rows = pairs(bank, run.embodying.paraphrases, seed)
    turned = [Pair(row.id, row.optimized_prompt, row.prompt, row.source) for row in rows]
    return _trial(run, "paraphrase", turned, seed, _onwards(run))


def paraphrases(trial: Trial, sentences: Sequence[str], samples: int, model: str = "") -> dict[str, list[str]]:
    """What the augmenter says for each sentence: the different ones of so many samples, but for the sentence itself.

    `model`: a folder or Hub id of another rewriter, for sentences that the desk's own augmenter does not know.
    """
    network, tokenizer = rewriters.network_of(model or str(trial.folder / "model"), trial.on_gpu)
    found: dict[str, set[str]] = {text: set() for text in sentences}
    for sample in range(samples):
        settings = trial.rewriting.model_copy(
            update={"mode": "stable", "temperature": TEMPERATURE, "seed": 1000 * trial.seed + sample}
        )
        for row in rewrite.through(rewriters.of(network, tokenizer, settings), list(sentences), settings):
            if row.outcome in ("", "unchanged"):  # the others are cut off, or nothing
                found[row.prompt].add(row.optimized_prompt.strip())
    return {text: sorted(made - {text}) for text, made in found.items()}


def said(
    kind: str, episodes: Sequence[Episode], pool: Mapping[str, Sequence[str]], count: int, seed: int
) -> list[list[str]]:
    """What each training episode may be told, for one kind of policy: its sentence, and `count` wordings beside it.

    `pool`: paraphrases by canonical sentence. fixed, sentence and blind: the canonical sentence; shuffled: that of
    another episode; augmented: wordings from the pool; wrong: from the pool of another task; edited: the sentence with
    words lost, unknown or moved. Raises ValueError for another kind, or a sentence without paraphrases.
    """
    rng, own = random.Random(f"said {kind} {seed}"), [canonical(each.task) for each in episodes]
    if kind in ("fixed", "sentence", "blind"):
        return [[text] for text in own]
    if kind == "shuffled":
        return [[text] for text in rng.sample(own, len(own))]
    if kind == "edited":
        return [[text, *(edited(text, rng) for _ in range(count))] for text in own]
    if kind not in ("augmented", "wrong"):
        raise ValueError(f"no policy is called {kind!r}")
    if empty := [text for text in dict.fromkeys(own) if not pool.get(text)]:
        raise ValueError(f"no paraphrase of {', '.join(map(repr, empty[:3]))}; raise embodying.samples")
    others = {text: [each for each in pool if each != text] for text in pool}
    source = (lambda text: text) if kind == "augmented" else (lambda text: rng.choice(others[text]))
    return [[text, *(rng.choice(pool[source(text)]) for _ in range(count))] for text in own]


def edited(text: str, rng: random.Random) -> str:
    """A sentence with random edits, no model needed (after EDA, arXiv 1901.11196): words lost, unknown, moved."""
    words = [word if rng.random() > 0.15 else NO_WORD for word in text.split() if rng.random() > 0.15]
    if rng.random() < 0.5:
        words.insert(rng.randrange(len(words) + 1), NO_WORD)
    if len(words) > 1 and rng.random() < 0.5:
        a, b = rng.sample(range(len(words)), 2)
        words[a], words[b] = words[b], words[a]
    return " ".join(words) or text


def linear(rows: Sequence[Pair]) -> Callable[[str], str]:
    """A control for the module: ridge regression from words and ordered pairs of words to the canonical sentences."""
    import numpy as np

    targets = [canonical(task) for task in TASKS]
    names = {name: n for n, name in enumerate(sorted({each for row in rows for each in _features(row.prompt)}))}

    def vector(text: str) -> np.ndarray:
        found = np.zeros(len(names))
        found[[names[each] for each in _features(text) if each in names]] = 1
        return found / max(1.0, np.linalg.norm(found))

    x = np.stack([vector(row.prompt) for row in rows])
    y = np.array([[float(text == row.optimized_prompt) for text in targets] for row in rows])
    weights = x.T @ np.linalg.solve(x @ x.T + RIDGE * np.eye(len(rows)), y)
    return lambda text: targets[int((vector(text) @ weights).argmax())]


def _features(text: str) -> set[str]:
    words = text.split()
    return {*words, *(f"{a} {b}" for a, b in itertools.combinations(words, 2))}


def _onwards(run: Profile) -> dict:
    """What changes where notebook 03's rewriter is trained on."""
    batch = run.embodying.batch
    changed = {"base": str(trained(run)), "epochs": run.embodying.epochs, "global_batch": batch}
    return changed | {"micro_batch": min(run.training.micro_batch, batch)}


def trained(run: Profile) -> Path:
    """The folder of notebook 03's rewriter. Raises FileNotFoundError if there is none."""
    folder = paths.stage_dir(run.name, "03_training") / "model"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{paths.shown(folder)} has no model; train the rewriter first (notebook 03)")
    return folder


def _trial(run: Profile, kind: str, rows: Sequence[Pair], seed: int, changed: dict) -> Trial:
    # A trial knows its base by name only; what notebook 03 trained may change under that name.
    made_from = checkpoint.digest(rewriters.weights(changed["base"]))[:8] + "-" if changed else ""
    key = f"{kind}-{made_from}s{seed}"
    return Trial(
        key,
        seed,
        tuple(rows),
        run.training.model_copy(update=changed | {"seed": seed, "push_to": ""}),
        greedy(run, seed),
        paths.stage_dir(run.name, "10_embodied") / "rewriters" / key,
        run.data.source != "miniature",
    )


def greedy(run: Profile, seed: int) -> Rewriting:
    """How the module decodes."""
    changed = {"mode": "greedy", "seed": seed, "model": "", "backend": "transformers", "max_new_tokens": TOKENS}
    return run.rewriting.model_copy(update=changed)
