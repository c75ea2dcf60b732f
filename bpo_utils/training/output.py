"""The finished model: safetensors, tokenizer, generation config and a model card, in one step of renaming.

The folder is what Transformers and vLLM load: config.json, model*.safetensors, the tokenizer's files and
generation_config.json. `training.json` says what it was made from, so that the same training is not run twice.
"""

import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from bpo_utils import paths, records
from bpo_utils.profile import Decoding, Training

SHARD = "5GB"  # what the Hub's own models use
LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "peft")
MODEL_FILES = {".safetensors", ".json", ".jinja", ".model", ".txt", ".md"}  # what a folder that Transformers loads has
REFUSED = re.compile(r"\((401|403) [A-Z]")  # how hf_xet words it, which has no class of its own for a refusal


def write(trainer: Any, tokenizer: Any, folder: Path, facts: dict[str, Any], decoding: Decoding | None) -> None:
    """Write folder/model from a trained Trainer; called in every process, since ZeRO-3 gathers from all of them."""
    made = folder / ".model"
    if trainer.is_world_process_zero() and made.exists():
        shutil.rmtree(made)
    trainer.accelerator.wait_for_everyone()
    network = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(network, "merge_and_unload"):  # adapters: the model that is used has them merged in
        if trainer.is_world_process_zero():
            network.save_pretrained(made / "adapter")
            _ready_to_generate(network.merge_and_unload(), decoding).save_pretrained(made, max_shard_size=SHARD)
    else:
        _ready_to_generate(network, decoding)
        trainer.save_model(str(made))
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(made)
        (made / "training_args.bin").unlink(missing_ok=True)  # a pickle; what it says stands in training.json
        records.write_json(made / "training.json", facts)
        records.write_text(made / "README.md", card(facts))
        replace(made, folder / "model")
    trainer.accelerator.wait_for_everyone()


def replace(made: Path, final: Path) -> None:
    """Put a finished folder in the place of the one before it."""
    before = final.with_name(f".{final.name}.before")
    if before.exists():
        shutil.rmtree(before)
    if final.exists():
        os.replace(final, before)
    os.replace(made, final)
    if before.exists():
        shutil.rmtree(before)


def is_same(model_folder: Path, facts: dict[str, Any]) -> bool:
    """Whether a finished model lies in the folder that was made with these settings, this data and this code."""
    path = model_folder / "training.json"
    if not path.is_file() or not (model_folder / "config.json").is_file():
        return False
    known = records.read_json(path)
    return all(known.get(part) == facts[part] for part in ("settings", "code"))


def versions() -> dict[str, str]:
    """Versions of the libraries that took part, of those that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The git commit of this code, with a + if files differ from it; unknown outside a clone."""
    git = ["git", "-C", str(paths.ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=30)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def card(facts: dict[str, Any]) -> str:
    """The model card (README.md with the Hub's metadata): what the model does, from what it was made, how to use it."""
    from bpo_utils import tokens

    settings, plan, end = facts["settings"], facts["plan"], facts["end"]
    rows = {name: value for name, value in settings.items() if name != "data"}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    libraries = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    base = settings["base"]
    known = f"base_model: {base}\n" if base.count("/") == 1 else ""  # owner/name on the Hub
    losses = f"training loss {end['loss']:.4f} in the last step"
    losses += f", validation loss {end['validation_loss']:.4f}" if end["validation_loss"] is not None else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{known}tags: [bpo, prompt-optimization]
---

# Rewriter trained by profile `{facts["profile"]}`

A language model that rewrites a prompt so that another model answers it better (Black-Box Prompt Optimization, arXiv
2311.04155). It reads the prompt in this frame and continues with the optimized prompt:

```text
{tokens.REWRITER_FRAME}
```

Fine-tuned from `{base}` on {plan["pairs"]} pairs ({plan["target_tokens"]} target tokens), {plan["steps"]} steps;
{losses}. Data (sha256 of the encoded pairs, first 16 digits): `{settings["data"]}`. Code: commit `{facts["commit"]}`.
Libraries: {libraries}.

| setting | value |
|---|---|
{table}

Not evaluated by this card: whether the rewrites help is what notebooks 04 to 06 of the course measure.
"""


def push(folder: Path, name: str) -> str:
    """Upload a finished model to the Hub as `owner/name` (private when new); returns the address of what was uploaded.

    The token is the one of `hf auth login` or $HF_TOKEN. Only the model's own files go, and `adapter/` where the
    training made one. Raises FileNotFoundError if `folder` holds no finished model, ValueError for a name that the Hub
    cannot have, PermissionError if it refuses (HTTP 401, 403), ConnectionError for another failure on the way.
    """
    from httpx2 import HTTPError  # huggingface_hub's client
    from huggingface_hub import HfApi

    if not (folder / "config.json").is_file() or not (folder / "training.json").is_file():
        raise FileNotFoundError(f"{paths.shown(folder)} holds no finished model (config.json and training.json)")
    found = [path for path in (*folder.glob("*"), *folder.glob("adapter/*")) if path.suffix in MODEL_FILES]
    files = [path.relative_to(folder).as_posix() for path in found if path.name[0] != "."]
    api = HfApi()
    try:
        repo = api.create_repo(name, private=True, exist_ok=True).repo_id
        message = "Upload a rewriter trained with BPO"
        return str(api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=files, commit_message=message))
    except (OSError, HTTPError, RuntimeError) as error:
        raise _not_uploaded(folder, name, error) from error


def _not_uploaded(folder: Path, name: str, error: Exception) -> OSError:
    # Without hf_xet, huggingface_hub puts what went wrong with a large file behind a RuntimeError.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    told = " ".join(str(cause).split())
    status = getattr(getattr(cause, "response", None), "status_code", None)
    kept = f"The model stays in {paths.shown(folder)}, and the same training command will only upload it."
    if status in (401, 403) or REFUSED.search(told):
        return PermissionError(
            f"the Hub refused to take {name} ({told}). Log in with a token that may write there (`hf auth login`, or "
            f"HF_TOKEN), or set push_to in the profile to a name of your own. {kept}"
        )
    return ConnectionError(
        f"could not upload {name} to the Hub ({type(cause).__name__}: {told}). Check the network, and that "
        f"HF_HUB_OFFLINE is not set. {kept}"
    )


def settings_of(training: Training, examples: list[Any], validation: list[Any]) -> dict[str, Any]:
    """What decides the numbers of a training: its settings and a hash of its data.

    Left out is what may change between two starts: where it runs, how many checkpoints it writes, where it goes.
    """
    from bpo_utils.training import checkpoint

    free = {"launch", "processes", "checkpoint_steps", "push_to", "attention"}
    kept = training.model_dump(mode="json", exclude=free)
    # A local folder by its name alone: where it lies on this machine is nobody's business who downloads the model.
    base = Path(training.base).name if Path(training.base).is_dir() else training.base
    return kept | {"base": base, "data": checkpoint.digest([examples, validation])}


def _ready_to_generate(network: Any, decoding: Decoding | None) -> Any:
    network.config.use_cache = True  # it was off for training only
    if decoding is not None:
        settings = network.generation_config
        settings.do_sample, settings.temperature, settings.top_p = decoding.temperature > 0, None, None
        if settings.do_sample:
            settings.temperature, settings.top_p, settings.top_k = decoding.temperature, decoding.top_p, 0
    return network
