"""A small vision-language-action policy: image patches and the words of the instruction to the next action.

One query and the words attend to each other and to the patches (PyTorch's own decoder layers); the query's last state
gives the action. As in a vision transformer (arXiv 2010.11929) a convolution makes the patches, here of 2 x 2 cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils import profile, records
from bpo_utils.embodied.world import ACTIONS, Episode

CELL = (11, 6, 3)  # minigrid's numbers of objects, colours and door states
LOUD = 8.0  # a cell's share of a patch, about as large as a word vector; at 1 the words are learned far more slowly
PAD, UNKNOWN = 0, 1
NO_WORD = "~"  # stands for a word that nobody knows, so that a training can teach what UNKNOWN means
LONGEST = 32  # words; what a rewriter rambles on after them is not read


@dataclass(frozen=True)
class Policy:
    """A network, and how it reads an instruction: `words`, `sentence` (one symbol for all of it) or `nothing`."""

    network: Any
    vocabulary: dict[str, int]
    reads: str

    def read(self, text: str) -> list[int]:
        """The ids of what is read of an instruction; a word that the training did not have is UNKNOWN."""
        return [self.vocabulary.get(word, UNKNOWN) for word in symbols(text, self.reads)]

    def encode(self, texts: Sequence[str]) -> Any:
        """Word ids, int64 (texts, longest), padded."""
        import torch

        rows = [self.read(text) for text in texts]
        longest = max(map(len, rows), default=0)
        padded = [row + [PAD] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest)

    def act(self, texts: Sequence[str], views: Any) -> Any:
        """The most likely action for each text and view (rows, 7, 7, 3), as an array."""
        import torch

        with torch.inference_mode():
            parts = [slice(at, at + 1024) for at in range(0, len(texts), 1024)]
            found = [logits(self.network, self.encode(texts[p]), torch.as_tensor(views[p])).argmax(1) for p in parts]
        return torch.cat(found).numpy()


def symbols(text: str, reads: str) -> list[str]:
    """What a policy reads of an instruction."""
    return {"words": text.split()[:LONGEST], "sentence": [text], "nothing": []}[reads]


def build(settings: profile.Policy, vocabulary: int) -> Any:
    """The network, with random weights."""
    import torch
    from torch import nn

    width = settings.width
    layer = nn.TransformerDecoderLayer(
        width, settings.heads, settings.feed_forward, dropout=0.0, batch_first=True, norm_first=True
    )
    network = nn.ModuleDict(
        {
            "words": nn.Embedding(vocabulary, width),
            "patches": nn.Conv2d(sum(CELL), width, kernel_size=2, stride=2),
            "decoder": nn.TransformerDecoder(layer, settings.layers, nn.LayerNorm(width)),
            "action": nn.Linear(width, len(ACTIONS)),
        }
    )
    for name, shape in (("query", (1, 1, width)), ("word_places", (1 + LONGEST, width)), ("patch_places", (16, width))):
        network.register_parameter(name, nn.Parameter(0.02 * torch.randn(shape)))
    return network


def logits(network: Any, words: Any, views: Any, hidden: Any = None) -> Any:
    """Scores of the actions, float (rows, 7). `hidden`: bool like `words`, words that nothing may attend to."""
    import torch
    from torch.nn import functional

    rows = len(views)
    cells = [functional.one_hot(views[..., n].long(), size) for n, size in enumerate(CELL)]
    image = LOUD * functional.pad(torch.cat(cells, -1).float().permute(0, 3, 1, 2), (0, 1, 0, 1))
    patches = network["patches"](image).flatten(2).transpose(1, 2) + network.patch_places
    read = torch.cat([network.query.expand(rows, 1, -1), network["words"](words)], 1)
    read = read + network.word_places[: read.shape[1]]
    unread = words == PAD if hidden is None else (words == PAD) | hidden
    unread = torch.cat([torch.zeros(rows, 1, dtype=torch.bool), unread], 1)
    return network["action"](network["decoder"](read, patches, tgt_key_padding_mask=unread)[:, 0])


def train(
    episodes: Sequence[Episode],
    said: Sequence[Sequence[str]],
    settings: profile.Policy,
    seed: int,
    reads: str = "words",
) -> Policy:
    """Behaviour cloning: cross-entropy of the expert's actions. `said`: for each episode, what it may be told.

    Raises ValueError where there is no sentence for an episode.
    """
    import numpy as np
    import torch

    if len(said) != len(episodes) or not all(said):
        raise ValueError(
            f"{len(episodes)} episodes need at least one sentence each; got {list(map(len, said))[:9]} ..."
        )
    torch.manual_seed(seed)
    texts = sorted({text for each in said for text in each})
    known = {word for text in texts for word in symbols(text, reads)} - {NO_WORD}
    vocabulary = {word: n + 2 for n, word in enumerate(sorted(known))}
    policy = Policy(build(settings, len(vocabulary) + 2), vocabulary, reads)
    encoded, number = policy.encode(texts), {text: n for n, text in enumerate(texts)}
    views = torch.as_tensor(np.concatenate([each.views for each in episodes]))
    actions = torch.as_tensor(np.concatenate([each.actions for each in episodes]))
    of = np.repeat(np.arange(len(episodes)), [len(each.actions) for each in episodes])
    rng, rate = np.random.default_rng(seed), settings.learning_rate
    optimizer = torch.optim.AdamW(policy.network.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=settings.steps + 1, pct_start=0.1)
    for _ in range(settings.steps):
        rows = rng.integers(len(actions), size=settings.batch)
        told = [number[said[n][rng.integers(len(said[n]))]] for n in of[rows]]
        loss = torch.nn.functional.cross_entropy(logits(policy.network, encoded[told], views[rows]), actions[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Policy(policy.network.eval(), vocabulary, reads)


def save(policy: Policy, folder: Path) -> None:
    """Write model.safetensors and vocabulary.json."""
    from safetensors.torch import save

    records.write_bytes(folder / "model.safetensors", save(policy.network.state_dict()))
    records.write_json(folder / "vocabulary.json", {"reads": policy.reads, "words": policy.vocabulary})


def load(folder: Path, settings: profile.Policy) -> Policy:
    """What `save` wrote. Raises OSError if it is not there, RuntimeError if it has another shape."""
    from safetensors.torch import load_file

    told = records.read_json(folder / "vocabulary.json")
    network = build(settings, len(told["words"]) + 2)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return Policy(network.eval(), told["words"], told["reads"])


def saliency(policy: Policy, episode: Episode, text: str) -> list[tuple[str, float]]:
    """What each word weighs: how much of the probability of the expert's action goes when the word is hidden.

    Mean over the steps of the episode, from -1 to 1; below 0, the word misleads.
    """
    import torch

    words, steps = policy.encode([text]), len(episode.actions)
    views, actions = torch.as_tensor(episode.views), torch.as_tensor(episode.actions)
    with torch.inference_mode():
        chances = []
        for place in [None, *range(words.shape[1])]:
            hidden = torch.zeros(1, words.shape[1], dtype=torch.bool)
            if place is not None:
                hidden[0, place] = True
            found = logits(policy.network, words.expand(steps, -1), views, hidden.expand(steps, -1))
            chances.append(float(found.softmax(1)[torch.arange(steps), actions].mean()))
    return [(word, chances[0] - rest) for word, rest in zip(symbols(text, policy.reads), chances[1:], strict=True)]
