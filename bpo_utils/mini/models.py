"""The tiny models: their shape, their tokenizer, and how they are saved and loaded."""

from functools import cache
from pathlib import Path
from typing import Any

from bpo_utils import paths
from bpo_utils.chat import local

VOCABULARY = 3072
SHAPE = {  # 1.2 million parameters, the Llama-2 architecture in small
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def train_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE tokenizer with Llama-2's special tokens, trained on the given texts.

    Lines are split off and every line begins with a space, so that a word has the same ids at the start of a line and
    inside it: a model this small cannot afford to learn each topic twice.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    lines = pre_tokenizers.Split(Regex("\n"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(" \n ", "\n"), decoders.Strip(content=" ", left=1, right=0)]
    )
    specials = ["<unk>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )


def new(seed: int) -> Any:
    """A tiny Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save weights in half precision (2 MB instead of 4), with the tokenizer beside them."""
    import copy

    import torch

    copy.deepcopy(model).to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def folder(name: str) -> Path:
    """Folder of a shipped model: base, weak, middle, strong, judge.

    Raises FileNotFoundError with the command that makes it.
    """
    found = paths.MINI_MODELS / name
    if not (found / "model.safetensors").is_file():
        raise FileNotFoundError(f"{paths.shown(found)} has no weights; make them with `python -m bpo_utils.mini.build`")
    return found


@cache
def load(name: str) -> tuple[Any, Any]:
    """A shipped (model, tokenizer), loaded once per process."""
    return local.load(folder(name))
