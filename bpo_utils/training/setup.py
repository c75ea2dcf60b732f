"""The base model, its tokenizer and the Trainer's arguments, as a profile's training section wants them."""

import os
from pathlib import Path
from typing import Any

from bpo_utils import quiet
from bpo_utils.profile import Training
from bpo_utils.training import flops, zero

TWO_SPACES, LLAMA_IDS = ("▁▁", 259), [263, 29871, 289]  # in Llama 2's vocabulary; what SentencePiece makes of "a  b"


def processes() -> int:
    """How many processes train together, as the launcher said."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shape(training: Training) -> flops.Shape:
    """Sizes of the base model, from its configuration alone: no weights are loaded."""
    quiet.transformers()
    from transformers import AutoConfig

    return flops.from_config(AutoConfig.from_pretrained(base_folder(training.base)))


def load_tokenizer(base: str) -> Any:
    """The tokenizer of a base model; without a padding token, </s> pads: labels are masked by position, not by id.

    Raises ValueError for a tokenizer of Llama 2 that does not read as Llama 2 does.
    """
    quiet.transformers()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_folder(base))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    # Transformers 5 builds a Llama tokenizer from tokenizer.model alone in another order of joining than SentencePiece:
    # two spaces become one token. The Hub's folders have a tokenizer.json, which is right.
    if tokenizer.convert_tokens_to_ids(TWO_SPACES[0]) == TWO_SPACES[1]:
        ids = tokenizer.encode("a  b", add_special_tokens=False)
        if ids != LLAMA_IDS:
            raise ValueError(
                f"the tokenizer of {base} reads 'a  b' as {ids}, Llama 2 as {LLAMA_IDS}: its folder lacks Llama's "
                "tokenizer.json; take that file from the same place as the model"
            )
    return tokenizer


def base_folder(base: str) -> str:
    """Where the base model lies: `mini:NAME` is a shipped model, anything else a Hub id or a local folder."""
    if base.startswith("mini:"):
        from bpo_utils.mini import models

        return str(models.folder(base.removeprefix("mini:")))
    return base


def model(training: Training, arguments: Any) -> Any:
    """The base model, ready to be trained: cut up for ZeRO-3, frozen in part, or with adapters, as the profile says."""
    import torch
    from transformers import AutoModelForCausalLM

    if training.zero_stage is not None:
        quiet.deepspeed()
        import deepspeed

        # Before the model: ZeRO-3 cuts it up while it is loaded, and must know into how many parts.
        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")
    # float32 weights where nothing else keeps them: DeepSpeed has its own float32 copy, frozen weights need none.
    narrow = arguments.bf16 and (training.zero_stage is not None or training.lora is not None)
    network = AutoModelForCausalLM.from_pretrained(
        base_folder(training.base),
        dtype=torch.bfloat16 if narrow else torch.float32,
        attn_implementation=training.attention,
    )
    network.config.use_cache = False  # with a cache, Transformers would not keep flattened examples apart
    if training.freeze_embeddings:
        network.get_input_embeddings().requires_grad_(False)
        network.get_output_embeddings().requires_grad_(False)
    return _with_adapters(network, training) if training.lora else network


def _with_adapters(network: Any, training: Training) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = training.lora
    chosen = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    if training.checkpointing:
        network.enable_input_require_grads()  # else nothing before the first adapter would ask for a gradient
    return get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", target_modules=lora.target_modules, **chosen))


def arguments(training: Training, what: dict[str, Any], folder: Path, saved_by: int | None) -> Any:
    """The Trainer's arguments. `what` is the plan, `saved_by` how many processes wrote the checkpoint to load.

    Raises ValueError if the profile wants bfloat16 and the GPU has none.
    """
    import torch
    from transformers import TrainingArguments

    gpu = torch.cuda.is_available()
    if not gpu:  # said before anything imports DeepSpeed, which else warns that it found no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    able = gpu and torch.cuda.is_bf16_supported()
    if training.precision == "bfloat16" and gpu and not able:
        raise ValueError(f"{torch.cuda.get_device_name(0)} has no bfloat16; set precision: float32 in the profile")
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.micro_batch,
        per_device_eval_batch_size=training.micro_batch,
        gradient_accumulation_steps=what["accumulation"],
        learning_rate=training.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=what["warmup_steps"],
        optim="adamw_torch_fused" if gpu and training.offload == "none" else "adamw_torch",
        adam_beta1=training.adam_betas[0],
        adam_beta2=training.adam_betas[1],
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        data_seed=training.seed,
        bf16=training.precision == "bfloat16" or (training.precision == "auto" and able),
        use_cpu=not gpu,
        activation_checkpointing=training.checkpointing,
        average_tokens_across_devices=training.loss_mean == "tokens",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a loss that is not finite
        save_strategy="steps" if training.checkpoint_steps else "no",
        save_steps=training.checkpoint_steps or 500,
        eval_strategy="epoch" if what["validation_pairs"] else "no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,  # the rows are lists of ids, and logits_to_keep is made by the collator
        dataloader_pin_memory=gpu,
        deepspeed=zero.config(training, processes(), saved_by),
    )
