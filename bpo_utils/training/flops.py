"""The size of a model from its configuration alone, and the arithmetic of one training step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bpo_utils.profile import Training

LLAMA_TYPES = ("llama", "mistral")  # counted by arithmetic; any other dense model is built without memory and counted


@dataclass(frozen=True)
class Shape:
    """What the plan needs to know of a model. All counts are numbers of parameters or of units, never bytes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool  # the output layer is the matrix of word vectors
    parameters: int
    largest_layer: int  # the most parameters that one module holds itself: what ZeRO-3 must gather at once
    linears: tuple[tuple[str, int, int, int], ...]  # linear layers but the output layer: name, inputs, outputs, number

    @property
    def linear(self) -> int:
        """Parameters of the linear layers that every token goes through; no word vectors, no output layer."""
        return sum(inputs * outputs * number for _, inputs, outputs, number in self.linears)


def from_config(config: Any) -> Shape:
    """The shape of a model from its Transformers configuration; no weights are loaded.

    Raises ValueError for a mixture of experts, where not every token goes through every weight.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ValueError(f"{config.model_type} is a mixture of experts; the plan's formulas are for dense models only")
    heads, hidden = config.num_attention_heads, config.hidden_size
    sizes = {
        "hidden": hidden,
        "intermediate": config.intermediate_size,
        "layers": config.num_hidden_layers,
        "heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or hidden // heads,
        "vocab": config.vocab_size,
        "tied": bool(config.tie_word_embeddings),
    }
    counted = _llama(config, sizes) if config.model_type in LLAMA_TYPES else _built(config)
    return Shape(**sizes, **counted)


def _llama(config: Any, sizes: dict[str, int]) -> dict[str, Any]:
    hidden, wide, layers = sizes["hidden"], sizes["intermediate"], sizes["layers"]
    queries, keys = sizes["heads"] * sizes["head_dim"], sizes["kv_heads"] * sizes["head_dim"]
    attention = [("q_proj", hidden, queries), ("k_proj", hidden, keys), ("v_proj", hidden, keys)]
    attention += [("o_proj", queries, hidden)]
    mlp = [("gate_proj", hidden, wide), ("up_proj", hidden, wide), ("down_proj", wide, hidden)]
    biases = sum(outputs for _, _, outputs in attention) * bool(getattr(config, "attention_bias", False))
    biases += sum(outputs for _, _, outputs in mlp) * bool(getattr(config, "mlp_bias", False))
    weights = sum(inputs * outputs for _, inputs, outputs in attention + mlp)
    words = sizes["vocab"] * hidden
    return {
        # two norms in each layer, one at the end
        "parameters": words * (1 if sizes["tied"] else 2) + layers * (weights + biases + 2 * hidden) + hidden,
        "largest_layer": max(words, *(inputs * outputs for _, inputs, outputs in attention + mlp)),
        "linears": tuple((*each, layers) for each in attention + mlp),
    }


def _built(config: Any) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # modules with shapes and without memory
        model = AutoModelForCausalLM.from_config(config)
    numbers: dict[tuple[str, int, int], int] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            key = (name.rpartition(".")[2], module.in_features, module.out_features)
            numbers[key] = numbers.get(key, 0) + 1
    own = (sum(part.numel() for part in module.parameters(recurse=False)) for module in model.modules())
    linears = tuple((*key, number) for key, number in numbers.items())
    return {"parameters": model.num_parameters(), "largest_layer": max(own), "linears": linears}


def trained_parameters(shape: Shape, training: Training) -> int:
    """How many parameters the optimizer moves: all, all but the word vectors, or those of the adapters (LoRA).

    An adapter of rank r beside a linear layer has r x (inputs + outputs) parameters (arXiv 2106.09685, section 4.1).
    Raises ValueError if `target_modules` names no layer of this model.
    """
    words = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    if training.lora is None:
        return shape.parameters - (words if training.freeze_embeddings else 0)
    wanted = training.lora.target_modules
    chosen = [each for each in shape.linears if wanted == "all-linear" or each[0] in wanted]
    if not chosen:
        names = ", ".join(sorted({each[0] for each in shape.linears}))
        raise ValueError(f"lora.target_modules {wanted} names no linear layer of the model; it has {names}")
    return sum(training.lora.rank * (inputs + outputs) * number for _, inputs, outputs, number in chosen)


def training_flops(
    shape: Shape, lengths: Sequence[int], targets: int, *, trainable: Literal["all", "lora"] = "all"
) -> float:
    """Model operations of a forward and a backward pass over examples of these lengths, with `targets` taught tokens.

    PaLM's count (arXiv 2204.02311, appendix B): two operations per weight and token in the forward pass and four in the
    backward pass, and 12 L h s^2 for the attention of one example of s tokens, the causal half not taken off. Two
    departures, because this trainer computes less: looking up word vectors costs nothing, and the output layer is
    reckoned at the taught positions only. `s` is each example's own length: examples in one row do not see each other.
    With `lora` the frozen weights need no gradient of their own, so 4 instead of 6; the adapters' own operations, under
    one percent at rank 16, are left out. What is computed twice for checkpointing is no model operation either.
    """
    per_weight = 6 if trainable == "all" else 4
    weights = per_weight * (shape.linear * sum(lengths) + shape.vocab * shape.hidden * targets)
    attention = 12 * shape.layers * shape.heads * shape.head_dim * sum(length * length for length in lengths)
    return float(weights + attention)
