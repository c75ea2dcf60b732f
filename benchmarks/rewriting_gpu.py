"""Rewriting with a model of Llama 2 7B's shape on one GPU: tokens/s of our batches and of continuous batching, beside
what the memory's bandwidth allows.

    python benchmarks/rewriting.py --gpu [--batch 8 32 128]
    python benchmarks/rewriting.py --gpu --shape tiny --batch 4    # the same code on a CPU, to see that it runs

Random weights in bfloat16 and prompts of random ids with the lengths of BPO's validation prompts
(facts/bpo_lengths.json). Every text has the same number of new tokens: </s> never comes, since the generation config
names no end. The limit: each step reads all weights once and the keys and values of all rows; at the GPU's bandwidth
(training/gpus.toml) no step can be faster. Writes benchmarks/rewriting_gpu.json; the last line is JSON.
"""

import argparse
import datetime
import json
import time
from typing import Any

from bpo_utils import paths, profile, progress, quiet, records, rewriters
from bpo_utils.chat import local
from bpo_utils.training import gpus

SHAPES = ("llama-2-7b", "tiny")
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of --gpu."""
    group = parser.add_argument_group("on a GPU")
    group.add_argument("--gpu", action="store_true", help="measure a 7B shape on this machine's GPU instead")
    group.add_argument("--shape", choices=SHAPES, default="llama-2-7b", help="tiny: also without a GPU")
    group.add_argument("--batch", nargs="+", type=int, default=[8, 32, 128], help="prompts at once")
    group.add_argument("--new-tokens", type=int, default=128, help="of every text")
    group.add_argument("--batches", type=int, default=2, help="so many times --batch prompts are rewritten")


def main(arguments: argparse.Namespace) -> None:
    """Measure every batch size and print the table and the JSON line."""
    import torch

    quiet.transformers()  # it warns that no text will end by itself
    gpu = torch.cuda.is_available()
    if not gpu and arguments.shape != "tiny":
        raise SystemExit(
            "there is no GPU here that torch can use. Llama 2 7B's shape needs one with about 40 GiB (13.5 GB of "
            "weights in bfloat16, 0.5 MB of keys and values for every token). --shape tiny runs the same code on a CPU."
        )
    device = torch.cuda.get_device_name() if gpu else "CPU"
    model = random_model(arguments.shape, gpu)
    found = []
    for batch in arguments.batch:
        rows = prompts(batch * arguments.batches, model.config.vocab_size, arguments.shape)
        made = {"batch": batch, "limit": limit(model, rows, batch, arguments.new_tokens, device)}
        for backend in ("batched", "continuous"):
            made[backend] = speed(model, rows, backend, batch, arguments.new_tokens)
        found.append(made)
        print(json.dumps(made), flush=True)
    shown = {"device": device, "shape": arguments.shape, "new_tokens": arguments.new_tokens, "tokens_per_s": found}
    records.write_json(arguments.results / "rewriting_gpu.json", {"date": str(datetime.date.today())} | shown)
    print(f"\n{table(found)}\n\n{json.dumps(shown)}")


def random_model(shape: str, gpu: bool) -> Any:
    """A model of a shape with random weights that never ends a text by itself."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = TINY if shape == "tiny" else records.read_json(paths.FACTS / "llama2_7b_config.json")["config"]
    torch.manual_seed(1)
    with torch.device("cuda" if gpu else "cpu"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if gpu else torch.float32)
        try:
            model = LlamaForCausalLM(LlamaConfig(**sizes))
        finally:
            torch.set_default_dtype(before)
    model.generation_config.eos_token_id = NEVER
    return model.eval()


NEVER = [-1]  # no token has this id


class Ids:
    """Stands for a tokenizer: a prompt is the text of its ids, and nothing is decoded."""

    bos_token_id, eos_token_id = 1, 2

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """The ids of a text of ids."""
        return [int(word) for word in text.split()]

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        """As many words as tokens."""
        return " ".join("x" for _ in ids)

    def batch_decode(self, rows: Any, skip_special_tokens: bool) -> list[str]:
        """One text for each row."""
        return [self.decode(row, skip_special_tokens) for row in rows]


def prompts(count: int, vocabulary: int, shape: str) -> list[str]:
    """Prompts of random ids, as long as BPO's validation prompts in the frame; those of `tiny` are short."""
    import numpy

    lengths = [prompt for prompt, _ in records.read_json(paths.FACTS / "bpo_lengths.json")["rows"]]
    lengths = [min(n, 40 if shape == "tiny" else 512) for n in lengths]
    drawn = numpy.random.default_rng(42)
    return [
        " ".join(map(str, drawn.integers(3, vocabulary, lengths[n % len(lengths)] - 1).tolist())) for n in range(count)
    ]


def speed(model: Any, rows: list[str], backend: str, batch: int, new_tokens: int) -> float:
    """New tokens per second, prompts included in the time. Raises ValueError if a text has not its length."""
    chosen = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": new_tokens, "batch_size": batch, "seed": 1}
    settings = profile.Rewriting(**chosen)
    through = local.continued if backend == "batched" else rewriters.continuous
    through(model, Ids(), rows[:batch], settings.model_copy(update={"max_new_tokens": 4}), 0, None)
    wait(model)
    start = time.perf_counter()
    replies = through(model, Ids(), rows, settings, 0, None)
    wait(model)
    taken = time.perf_counter() - start
    if {len(reply.text.split()) for reply in replies} != {new_tokens}:
        raise ValueError(f"{backend}: not every text has {new_tokens} tokens")
    return round(len(rows) * new_tokens / taken, 1)


def wait(model: Any) -> None:
    """Until the GPU has done what it was given."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize()


def limit(model: Any, rows: list[str], batch: int, new_tokens: int, device: str) -> float | None:
    """New tokens per second if every step did nothing but read weights, keys and values; None for an unknown GPU.

    Full batches of rows of the mean length, so it is no bound for a batch that is not full. Word vectors are looked up,
    not read; prompts cost nothing here.
    """
    known = gpus.find(device)
    if known is None:
        return None
    config, width = model.config, 2  # bytes of a bfloat16
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name) * width
    heads = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    token = 2 * config.num_hidden_layers * heads * width
    length = sum(len(row.split()) + 1 for row in rows) / len(rows) + new_tokens / 2
    return round(batch * known.memory_gb_s * 1e9 / (weights + batch * length * token), 1)


def table(found: list[dict[str, Any]]) -> str:
    """Tokens per second, and the share of the limit."""
    rows = [["batch", "batched", "of the limit", "continuous", "of the limit", "limit"]]
    for made in found:
        cells = [str(made["batch"])]
        for backend in ("batched", "continuous"):
            share = f"{made[backend] / made['limit']:.0%}" if made["limit"] else "-"
            cells += [f"{made[backend]:.0f}", share]
        rows.append([*cells, f"{made['limit']:.0f}" if made["limit"] else "unknown"])
    return progress.columns(rows, right_from=0)
