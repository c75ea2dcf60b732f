"""The models that rewrite, behind one call: texts and the number of a sample in, one reply for each text out.

`transformers` and `continuous` run in this process; `served` asks an OpenAI-compatible server (vLLM ...). The model is
what notebook 03 trained, or any that the profile names: a Hub id, a folder, or a folder of LoRA adapters.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils import chat, paths, quiet, records, segment, shard_files, tokens
from bpo_utils.profile import Model, Price, Rewriting
from bpo_utils.records import Reply

# The paper's own model. Its main branch has pickled weights only, the Hub's conversion of them lies in a pull request;
# and it has no tokenizer.json. Its vocabulary is its base's.
PUBLISHED = {"THUDM/BPO": {"revision": "refs/pr/3", "tokenizer": "meta-llama/Llama-2-7b-chat-hf"}}
INSIDE = tokens.REWRITER_FRAME.removeprefix("[INST] ").removesuffix(" [/INST]")
# What a server must make of one message, so that the frame comes out once: Llama 2's template does, THUDM/BPO and the
# models trained here have none. For vLLM: --chat-template '...'
CHAT_TEMPLATE = "{{ bos_token }}[INST] {{ messages[-1]['content'].strip() }} [/INST]"
PAGE = 32  # tokens in a page of the cache on a CPU


@dataclass(frozen=True)
class Rewriter:
    """A model that is ready. `ask(texts, sample)`: one reply per text, in order; `length(text)`: its tokens."""

    ask: Callable[[list[str], int], list[Reply]]
    length: Callable[[str], int]


def load(settings: Rewriting, trained: Path, on_gpu: bool = False, calls: chat.Calls | None = None) -> Rewriter:
    """Make the rewriter of a profile ready. `trained`: the folder of notebook 03's model, used if no other is named.

    `on_gpu`: in bfloat16 on a GPU where there is one. `calls`: how a server is asked, and the store of its answers.
    Replies are `too_long` where a prompt leaves no room in the model's context. Raises ValueError for a profile that
    has no model (mode published), a server without a name or store, missing peft, or a tokenizer that reads another
    way than Llama 2's; OSError if a model cannot be loaded.
    """
    refuse_published(settings)
    if settings.backend == "served":
        return _served(settings, calls)
    if not settings.model and not (trained / "config.json").is_file():
        raise ValueError(
            f"{paths.shown(trained)} has no model; train the rewriter first (notebook 03), or name a model"
        )
    network, tokenizer = network_of(settings.model or str(trained), on_gpu)
    return of(network, tokenizer, settings)


def of(network: Any, tokenizer: Any, settings: Rewriting) -> Rewriter:
    """The rewriter that a loaded model is, with the profile's decoding, context and backend (not `served`)."""
    from bpo_utils.chat import local

    context = settings.context_tokens or getattr(network.config, "max_position_embeddings", None)
    make = continuous if settings.backend == "continuous" else local.continued

    def ask(texts: list[str], sample: int) -> list[Reply]:
        framed = [tokens.framed(tokens.REWRITER_FRAME, text) for text in texts]
        return make(network, tokenizer, framed, decoding_of(settings), sample, context)

    return Rewriter(ask, lambda text: len(tokenizer.encode(text, add_special_tokens=False)))


def refuse_published(settings: Rewriting) -> None:
    """Raise ValueError for the mode that has no model."""
    if settings.mode == "published":
        raise ValueError(
            "rewriting.mode published has no model: it takes the optimized prompts that BPO's test split has. Set "
            "another mode, or name a profile that has a model"
        )


def decoding_of(settings: Rewriting) -> Rewriting:
    """The settings with temperature 0 where the mode is greedy."""
    return settings.model_copy(update={"temperature": 0.0}) if settings.mode == "greedy" else settings


def block(settings: Rewriting) -> int:
    """How many texts are rewritten, and written down, at a time.

    One batch; several for modes of which a later turn has fewer texts, and where new texts take the place of finished
    ones; all for a server, whose answers the store keeps one by one.
    """
    if settings.backend == "served":
        return sys.maxsize
    several = settings.backend == "continuous" or settings.mode in ("aggressive", "iterative")
    return settings.batch_size * (8 if several else 1)


def facts(settings: Rewriting, trained: Path) -> dict[str, Any]:
    """What a rewrite depends on beside its prompt, flat: the settings, and which weights. Nothing is loaded.

    The batch size is left out: it decides no text. Raises ValueError if there are no weights.
    """
    refuse_published(settings)
    found = {f"rewriting.{name}": value for name, value in settings.model_dump().items() if name != "batch_size"}
    if settings.backend == "served":
        return found
    return found | (weights(settings.model) if settings.model else shard_files.model_hashes(trained))


def weights(model: str) -> dict[str, str]:
    """Which weights a name or folder means: sha256 of its files (and its base's, for adapters), or the Hub's commit."""
    if not is_folder(model):
        return {f"commit of {model}": _commit(model)}
    adapter = Path(model) / "adapter_config.json"
    base = records.read_json(adapter)["base_model_name_or_path"] if adapter.is_file() else ""
    below = {f"base's {name}": value for name, value in weights(base).items()} if base else {}
    return shard_files.model_hashes(Path(model)) | below


def is_folder(model: str) -> bool:
    """Whether a model's name is a folder here, else one of the Hub. Raises FileNotFoundError for a path to nothing."""
    if Path(model).is_dir():
        return True
    if model.count("/") > 1 or model.startswith((".", "/", "~")):  # owner/name at most is a name of the Hub
        raise FileNotFoundError(f"{model}: there is no such folder")
    return False


def network_of(model: str, on_gpu: bool) -> tuple[Any, Any]:
    """Load (model, tokenizer) by Hub id or folder; adapters are merged into their base. Raises as `load` does."""
    quiet.transformers()
    from transformers.utils.peft_utils import find_adapter_config_file

    from bpo_utils.chat import local
    from bpo_utils.training import setup

    is_folder(model)
    known = PUBLISHED.get(model, {})
    config = None if known else find_adapter_config_file(model)
    if config is None:
        pinned = {"revision": known["revision"], "use_safetensors": True} if known else {}
        return local.network(model, on_gpu, **pinned), setup.load_tokenizer(known.get("tokenizer", model))
    base = records.read_json(Path(config))["base_model_name_or_path"]
    try:
        from peft import PeftModel
    except ModuleNotFoundError:
        raise ValueError(
            f"{model} holds LoRA adapters, which need the package peft: install it with `make training`"
        ) from None
    try:
        network, tokenizer = network_of(base, on_gpu)
    except OSError as error:
        raise OSError(
            f"{model} holds adapters of {base}, which cannot be loaded ({error}); if it lies elsewhere, write where in "
            "base_model_name_or_path of adapter_config.json"
        ) from error
    return PeftModel.from_pretrained(network, model).merge_and_unload().eval(), tokenizer


def server(settings: Rewriting) -> Model:
    """The model that a server has. A server of one's own costs nothing; raises ValueError if it has no name."""
    if not settings.model or not settings.base_url:
        raise ValueError(
            "backend served needs rewriting.model (the server's name of it) and rewriting.base_url (such as "
            "http://127.0.0.1:8000/v1)"
        )
    where = {"provider": "compatible", "model": settings.model, "base_url": settings.base_url}
    return Model(name="rewriter", price=Price(input=0.0, output=0.0), **where)


def _served(settings: Rewriting, calls: chat.Calls | None) -> Rewriter:
    """A server's model, which gets the frame's inside as one message: its chat template makes the frame around it."""
    model, decoding = server(settings), decoding_of(settings)
    if calls is None:
        raise ValueError("backend served needs a store for its answers: chat.Calls(store=...) as `calls`")

    def ask(texts: list[str], sample: int) -> list[Reply]:
        return chat.ask(model, [tokens.framed(INSIDE, text) for text in texts], decoding, calls, sample)

    # The server's tokenizer is not here. A word is at least a token, so what grew by so many words grew enough.
    return Rewriter(ask, lambda text: len(segment.words(text)))


def continuous(
    network: Any, tokenizer: Any, framed: list[str], decoding: Rewriting, sample: int, context: int | None
) -> list[Reply]:
    """As `local.continued`, by Transformers' continuous batching: `batch_size` texts at a time, whatever their length.

    It takes no numbers of ours: sampling follows its own generator, seeded with the seed, the sample and the prompts,
    so a sampled text depends on which prompts it is asked with. Greedy texts are those of the other backend. Raises
    RuntimeError if it gives up a text.
    """
    from bpo_utils.chat import local

    encoded = {text: tokens.prompt_ids(tokenizer, text) for text in dict.fromkeys(framed)}
    done: dict[str, Reply] = {}
    together = decoding.model_copy(update={"batch_size": sys.maxsize})
    for texts, room in local.batches(encoded, together, context):
        if room < 1:
            done |= dict.fromkeys(texts, local.TOO_LONG)
            continue
        rows = [encoded[text] for text in texts]
        named = hashlib.sha256(json.dumps([decoding.seed, sample, texts]).encode()).digest()
        found = _generated(network, tokenizer, rows, decoding, room, int.from_bytes(named[:4]))
        for text, ids in zip(texts, found, strict=True):
            made = tokenizer.decode(ids, skip_special_tokens=True).strip()
            stopped = bool(ids) and ids[-1] in local.ends_of(network, tokenizer)
            done[text] = Reply(made, "answered" if made else "empty", "stop" if stopped else "length")
    return [done[text] for text in framed]


def _generated(
    network: Any, tokenizer: Any, rows: list[list[int]], decoding: Rewriting, room: int, seed: int
) -> list[list[int]]:
    """The new ids of every row, from `generate_batch`."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    from bpo_utils.chat import local

    sampling = {"do_sample": True, "temperature": float(decoding.temperature), "top_p": decoding.top_p, "top_k": 0}
    ends = {"eos_token_id": local.ends_of(network, tokenizer), "pad_token_id": tokenizer.eos_token_id}
    how = GenerationConfig(
        max_new_tokens=room, **ends, **(sampling if decoding.temperature > 0 else {"do_sample": False})
    )
    at_once = min(decoding.batch_size, len(rows))
    pages = -(-(max(map(len, rows)) + room) // PAGE) * at_once
    # On a CPU the library would take most of the machine's memory for its cache.
    sizes = {"page_size": PAGE, "num_blocks": pages} if network.device.type == "cpu" else {}
    batching = ContinuousBatchingConfig(seed=seed, max_requests_per_batch=at_once, **sizes)
    found = list(network.generate_batch(rows, generation_config=how, continuous_batching_config=batching).values())
    if len(found) < len(rows) or any(each.error for each in found):
        told = next((each.error for each in found if each.error), "its thread ended")
        raise RuntimeError(f"continuous batching gave up {len(rows) - len(found)} of {len(rows)} texts or more: {told}")
    return [each.generated_tokens for each in found]


def _commit(model: str) -> str:
    quiet.transformers()
    from transformers import AutoConfig

    revision = PUBLISHED.get(model, {}).get("revision", "main")
    return AutoConfig.from_pretrained(model, revision=revision)._commit_hash
