"""How much memory and disk a training needs: model states, activations, buffers, host memory, checkpoints.

Everything in bytes. Nothing here needs a GPU, weights, or DeepSpeed; where DeepSpeed is installed, its own estimators
are asked (ZeRO-2 and ZeRO-3 in 16 bits), and the tests hold the arithmetic here equal to them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from bpo_utils.profile import Training
from bpo_utils.training.flops import Shape

GIB = 2**30
LOADING = 1.5  # DeepSpeed's additional_buffer_factor
BUCKET = 5e8  # elements; DeepSpeed's default reduce_bucket_size and allgather_bucket_size
LIVE = 1e9  # parameters; DeepSpeed's default stage3_max_live_parameters
ALLOWANCE = 1.5 * GIB  # CUDA context, NCCL, cuBLAS workspaces: an allowance, no formula gives it
COPIES = 28  # of the hidden state that a Llama layer keeps for its backward pass, see `activations`


@dataclass(frozen=True)
class Setting:
    """What decides the memory: the ZeRO stage (None: no DeepSpeed), what is off-loaded, activations computed again."""

    zero_stage: int | None
    offload: str
    checkpointing: bool

    def __str__(self) -> str:
        name = "no ZeRO" if not self.zero_stage else f"ZeRO-{self.zero_stage}"
        return name + {"none": "", "optimizer": " + optimizer off-load", "all": " + all off-load"}[self.offload]


@dataclass(frozen=True)
class Job:
    """One training on some processes. `width`: bytes of a weight in the forward pass, 2 bfloat16, 4 float32."""

    shape: Shape
    trained: int
    gpus: int  # of one node, one process each
    nodes: int
    tokens: int  # of the largest micro batch
    examples: int  # in it
    targets: int  # tokens in it that carry loss
    accumulation: int  # micro batches of one process in a step
    attention: str
    batching: str
    width: int
    lora: bool = False
    gpu: bool = True  # False: on a CPU, where there is no CUDA context

    @property
    def processes(self) -> int:
        """All processes of the job."""
        return self.gpus * self.nodes


@dataclass(frozen=True)
class Need:
    """Bytes on each GPU, and in the memory of each node. `states_16`: the ZeRO paper's view of `states`."""

    setting: Setting
    states: float
    states_16: float
    activations: float
    buffers: float
    host: float

    @property
    def gpu(self) -> float:
        """All that one GPU must hold."""
        return self.states + self.activations + self.buffers


def zero2_states(parameters: int, gpus: int, nodes: int, offload: bool) -> tuple[int, int]:
    """(host, GPU) bytes of model states under ZeRO-2: the same as DeepSpeed's estimator.

    deepspeed.runtime.zero.stage_1_and_2.estimate_zero2_model_states_mem_needs, DeepSpeed 0.19.8: 2 bytes of weights on
    every GPU, and on its share 2 of gradient, 4 of the gradient's float32 copy at the step, 4 of the float32 weights, 8
    of the two moments.
    """
    every = gpus * nodes
    if offload:
        return int(parameters * max(4 * every, 16) * LOADING), 2 * parameters
    return int(parameters * 4 * gpus * LOADING), 2 * parameters + int(18 * parameters / every)


def zero3_states(
    parameters: int, largest_layer: int, gpus: int, nodes: int, offload: bool, offload_parameters: bool
) -> tuple[int, int]:
    """(host, GPU) bytes of model states under ZeRO-3: the same as DeepSpeed's estimator, with its zero_init.

    deepspeed.runtime.zero.stage3.estimate_zero3_model_states_mem_needs, DeepSpeed 0.19.8: everything is shared out, and
    weights and gradients of the largest layer are whole while it is computed.
    """
    every, layer = gpus * nodes, 4 * largest_layer
    if not offload:
        return int(largest_layer * 4 * gpus * LOADING), layer + int(18 * parameters / every)
    if offload_parameters:
        return int(parameters * 18 / nodes * LOADING), layer
    return int(parameters * 16 / nodes * LOADING), layer + int(2 * parameters / every)


@cache
def estimators() -> tuple[str, Callable[..., tuple[int, int]], Callable[..., tuple[int, int]]]:
    """Who estimates ZeRO-2 and ZeRO-3: DeepSpeed's own functions where it is installed, else those above."""
    logging.disable(logging.WARNING)  # DeepSpeed says on import that there is no GPU; for a plan that is no news
    try:
        import deepspeed
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as three
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as two
    except ImportError:
        source = "the arithmetic of DeepSpeed's estimators, which is not installed here, 18 bytes per parameter"
        return source, zero2_states, zero3_states
    finally:
        logging.disable(logging.NOTSET)
    source = f"DeepSpeed's own estimators (version {deepspeed.__version__.partition('+')[0]}), 18 bytes per parameter"
    return source, two, lambda *given: three(*given)[:2]


def states(setting: Setting, job: Job) -> tuple[float, float, float]:
    """(GPU, GPU as the ZeRO paper counts, host) bytes of weights, gradients and optimizer.

    The ZeRO paper (arXiv 1910.02054, section 3.1) counts 16 bytes per parameter: 2 weight, 2 gradient, 12 for AdamW in
    float32. DeepSpeed's code counts 18, because the gradient's share gets a float32 copy at the step. Without DeepSpeed
    it is 18 as well: 4 weight, 4 gradient, 8 moments, and the 2 of the copy that autocast keeps in bfloat16. Weights
    that are not trained are only kept.
    """
    # As training/setup.py loads them: float32 where nothing else keeps a float32 copy of what is trained.
    narrow = setting.zero_stage or job.lora
    trained, frozen = job.trained, (job.width if narrow else 4) * (job.shape.parameters - job.trained)
    stage, share = setting.zero_stage or 0, job.processes
    loading = job.shape.parameters * (job.width if job.lora else 4) * job.gpus * LOADING
    if job.width == 4:  # DeepSpeed's estimators know 16 bits only
        gpu = {0: 16.0, 1: 8 + 12 / share, 2: 4 + 16 / share, 3: 20 / share}[stage] * trained + frozen
        return gpu, gpu, loading
    _, two, three = estimators()
    offload, everything = setting.offload != "none", setting.offload == "all"
    if stage == 3:
        host, gpu = three(trained, job.shape.largest_layer, job.gpus, job.nodes, offload, everything)
        paper = 4 * job.shape.largest_layer if everything else (2 if offload else 16) * trained / share
        kept = 0 if everything else frozen / share
        return gpu + kept, paper + kept, host + (frozen if everything else 0)
    if offload:
        host, gpu = two(trained, job.gpus, job.nodes, True)
        return gpu + frozen, 2 * trained + frozen, host + frozen * job.gpus
    # ZeRO-1 with accumulation keeps whole gradients in float32 beside those in 16 bits (DeepSpeed's bf16_optimizer.py).
    one = 4 + 16 / share if job.accumulation == 1 else 8 + 12 / share
    paper, code = {0: (16, 18), 1: (4 + 12 / share, one), 2: (2 + 14 / share, 0)}[stage]
    gpu = two(trained, job.gpus, job.nodes, False)[1] if stage == 2 else code * trained
    return gpu + frozen, paper * trained + frozen, loading


def activations(setting: Setting, job: Job) -> float:
    """Bytes that the largest micro batch of s tokens keeps for its backward pass, on one GPU.

    L layers of 28 copies of the hidden state, 56 s h bytes each in bfloat16 (measured by ml-engineering, training
    performance, for Llama-3.1-8B and Mistral-7B; transformers 5.23 keeps 46 s h, which a test measures). With
    checkpointing one copy per layer and all of one layer (Chen et al., arXiv 1604.06174).
    """
    layer = COPIES * job.width * job.tokens * job.shape.hidden + _attention(job)
    kept = job.width * job.tokens * job.shape.hidden
    layers = job.shape.layers * kept + layer if setting.checkpointing else job.shape.layers * layer
    mask = _area(job) if job.attention == "sdpa" else 0  # one byte for each pair of positions
    return layers + mask + _logits(job)


def _area(job: Job) -> float:
    # Pairs of positions. In a flat row every position has a place in the mask of every other, of all its examples.
    rows = 1 if job.batching == "flat" else job.examples
    return job.tokens**2 / rows


def _attention(job: Job) -> float:
    # eager keeps the float32 softmax and its copy for every head; sdpa turns the mask into numbers in every layer anew.
    if job.attention == "eager":
        return (4 + job.width) * job.shape.heads * _area(job)
    return job.width * _area(job) if job.attention == "sdpa" else 0


def _logits(job: Job) -> float:
    # Peak of cross entropy in its backward pass: the logits, and in float32 a copy, log-softmax and both gradients (14
    # bytes in bfloat16, measured on PyTorch 2.13). Of a flat row only the positions that carry loss are projected.
    taught = (12 + job.width) * job.targets * job.shape.vocab
    return taught if job.batching == "flat" else taught + 2 * job.width * job.tokens * job.shape.vocab


def buffers(setting: Setting, job: Job) -> float:
    """Bytes of communication buffers and of what CUDA takes for itself, on one GPU.

    DeepSpeed's defaults (runtime/zero/config.py): one bucket to reduce and one to gather, 5e8 elements each; ZeRO-3
    keeps up to 1e9 parameters whole. DistributedDataParallel copies every gradient into buckets of its own.
    """
    allowance = ALLOWANCE if job.gpu else 0
    if setting.zero_stage in (None, 0):
        return allowance + (4 * job.trained if job.processes > 1 else 0)
    bucket = job.width * min(BUCKET, job.trained)
    gathered = job.width * min(LIVE, job.shape.parameters) if setting.zero_stage == 3 else bucket
    return allowance + bucket + gathered


def need(setting: Setting, job: Job) -> Need:
    """What one setting needs on each GPU and in each node's memory."""
    gpu, paper, host = states(setting, job)
    return Need(setting, gpu, paper, activations(setting, job), buffers(setting, job), host)


def settings(own: Setting) -> list[Setting]:
    """The settings to compare, those that slow a training least first; the profile's own is among them."""
    ways = [(None, "none"), (1, "none"), (2, "none"), (3, "none")]
    off_loaded = [(2, "optimizer"), (3, "all")]
    found = [Setting(*way, checkpointing) for checkpointing in (False, True) for way in ways]
    found += [Setting(*way, checkpointing) for way in off_loaded for checkpointing in (False, True)]
    own = Setting(own.zero_stage or None, own.offload, own.checkpointing)
    return found if own in found else [*found, own]


def checkpoint_bytes(parameters: int, trained: int, training: Training) -> int:
    """Bytes on disk of one checkpoint to resume from.

    DeepSpeed: weights in safetensors, the same again in its own model states, and 12 bytes per trained parameter of
    float32 weights and moments (about 108 GB for 7B in bfloat16). Without it: float32 weights and 8 bytes of moments.
    With adapters: only theirs.
    """
    if training.lora is not None:
        parameters = trained
    if training.zero_stage is not None:
        return 2 * width(training, gpu=True) * parameters + 12 * trained
    return 4 * parameters + 8 * trained


def model_bytes(parameters: int, training: Training) -> int:
    """Bytes on disk of the finished model, adapters merged: 13.5 GB for 7B in bfloat16.

    Without DeepSpeed and adapters the trained weights are float32, and are written so.
    """
    return kept_width(training) * parameters


def kept_width(training: Training) -> int:
    """Bytes of a weight that is kept but not trained, and of one that is written, as training/setup.py loads them."""
    narrow = training.zero_stage is not None or training.lora is not None
    return width(training, gpu=True) if narrow else 4


def width(training: Training, gpu: bool) -> int:
    """Bytes of a weight in the forward pass: 2 in bfloat16, which `auto` means where there is a GPU, else 4."""
    return 2 if training.precision == "bfloat16" or (training.precision == "auto" and gpu) else 4
