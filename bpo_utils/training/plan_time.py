"""How long a training will take: the longer of computing and communicating, each from stated assumptions.

Nothing here was measured. Loading the model, evaluation and checkpoints come on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bpo_utils.training.flops import Shape, training_flops
from bpo_utils.training.gpus import Gpu
from bpo_utils.training.memory import Setting

MFU = 0.5  # of the peak; 46 to 64 % published for 7B on A100 and H100 (llm-foundry), 29 to 39 % with shorter steps
LINK = 0.75  # of NVLink's or PCIe's bandwidth that collectives reach
NETWORK = 25.0  # GB/s of one node to the others: one port of 200 Gbit/s
UPDATE = 30  # bytes that AdamW moves per parameter: in float32 16 read and 12 written, and the 2 of the bfloat16 weight
HOST = 150.0  # GB/s of the host's memory that DeepSpeed's CPU Adam reaches
ASSUMPTIONS = (
    f"Computing: {MFU:.0%} of the GPU's dense bfloat16 peak, plus AdamW's {UPDATE} bytes per parameter at the "
    "bandwidth of the memory they lie in.",
    f"Communicating: ring collectives at {LINK:.0%} of the link between GPUs; between nodes {NETWORK:g} GB/s. ZeRO-2 "
    "reduces 2 bytes per parameter after every micro batch and gathers 2 after the step (ZeRO paper, section 7).",
    f"Off-loading: PCIe at {LINK:.0%}, AdamW on the host at {HOST:g} GB/s; it comes on top, for nothing overlaps it.",
    "Computing and communicating overlap wholly, and short micro batches are as efficient as long ones: both flatter. "
    "Loading, evaluation and checkpoints are not counted.",
)


@dataclass(frozen=True)
class Work:
    """What one optimizer step asks: operations of the model, and how much more is computed than that (padding)."""

    flops: float  # of the model, all processes together
    utilisation: float  # tokens / computed tokens
    accumulation: int
    trained: int
    lora: bool
    width: int


@dataclass(frozen=True)
class Time:
    """Seconds of one optimizer step."""

    compute: float
    communication: float
    offload: float

    @property
    def step(self) -> float:
        """Seconds from one step to the next."""
        return max(self.compute, self.communication) + self.offload

    @property
    def bound_by(self) -> str:
        """What takes longest."""
        parts = {"computing": self.compute, "communicating": self.communication, "off-loading": self.offload}
        return max(parts, key=parts.get)


def flops_per_step(shape: Shape, lengths: Sequence[int], targets: Sequence[int], batch: int, lora: bool) -> float:
    """Model operations of one optimizer step over `batch` examples of mean length (`flops.training_flops`)."""
    every = training_flops(shape, lengths, sum(targets), trainable="lora" if lora else "all")
    return every * batch / len(lengths)


def step(setting: Setting, work: Work, shape: Shape, gpu: Gpu, gpus: int, nodes: int) -> Time:
    """Time of one optimizer step on `nodes` x `gpus` GPUs."""
    processes = gpus * nodes
    # The forward pass computed again: a third more where weights have gradients (6 + 2), half where not (4 + 2).
    again = (6 / 4 if work.lora else 8 / 6) if setting.checkpointing else 1
    compute = work.flops * again / work.utilisation / (processes * gpu.tflops * 1e12 * MFU)
    mine = work.trained / (processes if setting.zero_stage else 1)
    if setting.offload == "none":
        compute += mine * UPDATE / (gpu.memory_gb_s * 1e9)
    bus = (gpu.link_gb_s * LINK if nodes == 1 else min(NETWORK, gpu.link_gb_s * LINK)) * 1e9
    share = (processes - 1) / processes
    return Time(compute, share * _traffic(setting, work, shape) / bus, _offload(setting, work, shape, gpu, gpus, nodes))


def _traffic(setting: Setting, work: Work, shape: Shape) -> float:
    # Bytes of reduce-scatters and all-gathers in one step; an all-reduce is one of each.
    trained, everything = work.width * work.trained, work.width * shape.parameters
    if not setting.zero_stage:
        return 2 * 4 * work.trained  # without DeepSpeed gradients are float32
    if setting.zero_stage == 1:
        return 2 * trained
    if setting.zero_stage == 2:
        return (work.accumulation + 1) * trained
    return work.accumulation * (2 * everything + trained)  # gathered for the forward and the backward pass


def _offload(setting: Setting, work: Work, shape: Shape, gpu: Gpu, gpus: int, nodes: int) -> float:
    if setting.offload == "none":
        return 0.0
    processes, pcie = gpus * nodes, gpu.host_gb_s * LINK * 1e9
    moved = (work.accumulation + 1) * work.width * work.trained  # gradients down, weights up
    if setting.offload == "all":
        moved += work.accumulation * 2 * work.width * shape.parameters
    return moved / processes / pcie + work.trained / nodes * UPDATE / (HOST * 1e9)
