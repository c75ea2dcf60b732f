"""Does it fit, what would fit, and what to type to submit it."""

from collections.abc import Sequence
from typing import Any

from bpo_utils import paths
from bpo_utils.profile import Profile
from bpo_utils.training.gpus import Gpu
from bpo_utils.training.memory import GIB, Need, Setting

TIGHT = 0.9  # of the memory: beyond it, what the allocator loses to fragments may be too much


def fits(need: Need, card: Gpu) -> str:
    """yes, tight (less than a tenth is left), or no."""
    share = need.gpu / GIB / card.memory_gib
    return "no" if share > 1 else "tight" if share > TIGHT else "yes"


def smallest(needs: Sequence[Need], own: Setting, card: Gpu) -> Need | None:
    """The profile's own setting if it fits, else what to change it to; None if nothing fits.

    `needs` begin with what slows training least. One that leaves room goes before one that just fits, and any that
    keeps everything on the GPU before one that does not.
    """

    def order(need: Need) -> tuple[bool, bool, bool]:
        return need.setting != own, need.setting.offload != "none", fits(need, card) == "tight"

    return min((need for need in needs if fits(need, card) != "no"), key=order, default=None)


def submit_line(profile_name: str, gpus: int, nodes: int = 1) -> str:
    """The command that submits the training of a profile to Slurm, one process for each of `gpus` GPUs of a node."""
    asked = f"--nodes={nodes} --ntasks-per-node={gpus} --gpus-per-node={gpus}"
    return f"sbatch {asked} --export=ALL,PROFILE={profile_name} {paths.shown(paths.ROOT / 'slurm' / 'train.sbatch')}"


def verdict(
    run: Profile, own: Setting, needs: Sequence[Need], card: Gpu | None, lora: Need | None, plan: dict[str, Any]
) -> dict[str, Any]:
    """{fits, text, change, submit}: `change` are keys of the profile to set first, `submit` lines to type."""
    if card is None:
        return _here(run, needs[0])
    mine = next(need for need in needs if need.setting == own)
    gpus, nodes = plan["machine"]["gpus"], plan["machine"]["nodes"]
    state = fits(mine, card)
    taken = f"{mine.gpu / GIB:.1f} of {card.memory_gib:.1f} GiB on each GPU"
    if state != "no":
        said = f"fits: {taken}" if state == "yes" else f"fits, but only just ({taken}): a tenth should stay free"
        submit = _lines(run, gpus, nodes)
        return {"fits": state, "text": f"{said}; {_not_needed(mine, needs, card)}", "change": {}, "submit": submit}
    found, text = smallest(needs, own, card), f"does not fit: {taken}. "
    if found is not None and found.setting.offload == "none":
        text += f"Smallest setting that does: {_named(found)}, {found.gpu / GIB:.1f} GiB"
        submit = [submit_line("YOURS", gpus, nodes)]
        return {"fits": "no", "text": text, "change": _changes(found.setting, own), "submit": submit}
    text += _off_loaded(found, plan) if found else "Nothing does, whatever is off-loaded. "
    if lora is not None and fits(lora, card) != "no":
        text += f"Use the profile lora, which trains adapters instead of all weights: {lora.gpu / GIB:.1f} GiB"
        return {"fits": "no", "text": text, "change": {}, "submit": [submit_line("lora", gpus, nodes)]}
    return {"fits": "no", "text": text.strip(), "change": _changes(found.setting, own) if found else {}, "submit": []}


def _lines(run: Profile, gpus: int, nodes: int) -> list[str]:
    if run.training.launch == "here":
        return [f"python -m bpo_utils.train --profile {run.name}"]
    return [submit_line(run.name, gpus, nodes), f"bpo submit --profile {run.name}"]


def _here(run: Profile, need: Need) -> dict[str, Any]:
    import psutil

    free = psutil.virtual_memory().available
    text = f"{need.gpu / 2**20:,.0f} MiB of the {free / 2**20:,.0f} MiB that are free on this machine"
    state = "yes" if need.gpu < free else "no"
    text = f"fits: {text}" if state == "yes" else f"does not fit: {text}"
    return {"fits": state, "text": text, "change": {}, "submit": _lines(run, 1, 1)}


def _named(need: Need) -> str:
    return f"{need.setting} with checkpointing" if need.setting.checkpointing else str(need.setting)


def _not_needed(mine: Need, needs: Sequence[Need], card: Gpu) -> str:
    """What the profile's setting could do without, or that it does without."""
    own = mine.setting
    if own.offload == "none" and not own.checkpointing:
        return "no checkpointing and no off-load needed"
    without = {
        "off-load": Setting(own.zero_stage, "none", own.checkpointing),
        "checkpointing": Setting(own.zero_stage, own.offload, False),
    }
    used = {"off-load": own.offload != "none", "checkpointing": own.checkpointing}
    said = []
    for name in (name for name, on in used.items() if on):
        other = next((need for need in needs if need.setting == without[name]), None)
        spare = other is not None and fits(other, card) == "yes"
        need_gib = f" ({other.gpu / GIB:.1f} GiB without)" if other is not None else ""
        said.append(f"{name} is {'not ' if spare else ''}needed{need_gib}")
    return ", ".join(said)


def _off_loaded(found: Need, plan: dict[str, Any]) -> str:
    minutes = plan["time"][0]["minutes"] if plan["time"] else None
    takes = f" and takes {minutes / 60:.1f} hours" if minutes else ""
    return (
        f"Without off-load nothing does; {_named(found)} does with {found.gpu / GIB:.1f} GiB, but wants about "
        f"{found.host / GIB:.0f} GiB of the node's own memory{takes}. "
    )


def _changes(setting: Setting, own: Setting) -> dict[str, Any]:
    wanted = {"zero_stage": setting.zero_stage, "offload": setting.offload, "checkpointing": setting.checkpointing}
    return {name: value for name, value in wanted.items() if value != getattr(own, name)}
