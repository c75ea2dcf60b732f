"""A plan as text for the terminal and as rows for a notebook."""

import textwrap
from typing import Any

from bpo_utils.progress import columns
from bpo_utils.training.plan_time import ASSUMPTIONS

WIDTH = 120  # of a line of text; the tables may be wider
UNITS = {"PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9, "MFLOP": 1e6}
SECONDS = {"compute s": "compute", "communicate s": "communication", "off-load s": "offload", "step s": "step"}


def text(plan: dict[str, Any]) -> str:
    """The whole plan as plain text."""
    machine, verdict = plan["machine"], plan["verdict"]
    nodes = f"{machine['nodes']} nodes x " if machine["nodes"] > 1 else ""
    where = f"on {nodes}{machine['gpus']} x {machine['gpu']}" if machine["gpu"] else "without a GPU"
    parts = [
        f"Plan of profile {plan['profile']} ({plan['label']}) {where}",
        "Predictions from formulas; nothing here was measured.",
        "",
        *_facts(plan),
        "",
        f"Memory in {_unit(plan)}, the largest micro batch allowed: {plan['micro_batch_tokens']['most']:,} tokens "
        f"(mean {plan['micro_batch_tokens']['mean']:,.0f})",
        "",
        _columns(tables(plan)["memory"], right_from=2),
        "",
        *(_fold(note) for note in _memory_notes(plan)),
    ]
    if plan["time"]:
        parts += [
            "",
            "Time",
            "",
            _columns(tables(plan)["time"], right_from=2),
            "",
            *(_fold(said) for said in ASSUMPTIONS),
        ]
    parts += ["", _fold(f"Verdict: {verdict['text']}.")]
    if verdict["change"]:
        keys = ", ".join(f"{name}: {_yaml(value)}" for name, value in verdict["change"].items())
        parts.append(_fold(f"Set in a profile of your own (a YAML file in $BPO_PROFILES_DIR, YOURS below): {keys}"))
    parts += [f"  {line}" for line in verdict["submit"]]
    return "\n".join(parts)


def tables(plan: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Rows for `show.table`: {"memory": ..., "time": ...}, all cells text. `*` marks the profile's own setting."""
    unit = 1 if plan["machine"]["gpu"] else 1024
    places = 1 if unit == 1 else 0

    def size(row: dict[str, Any], name: str) -> str:
        return f"{row[f'{name}_gib'] * unit:,.{places}f}"

    memory = [
        {
            "setting": row["setting"] + (" *" if row["own"] else ""),
            "checkpointing": "yes" if row["checkpointing"] else "no",
            "states": size(row, "states"),
            "(16 P)": size(row, "states_16"),
            "activations": size(row, "activations"),
            "buffers": size(row, "buffers"),
            "in all": size(row, "gpu"),
            "host": size(row, "host"),
            "fits": row["fits"] or "-",
        }
        for row in plan["memory"]
    ]
    return {"memory": memory, "time": [_time_row(row) for row in plan["time"]]}


def _time_row(row: dict[str, Any]) -> dict[str, str]:
    if row["setting"] is None:
        return {"GPUs": row["machine"], "setting": "nothing fits"} | dict.fromkeys(
            ("compute s", "communicate s", "off-load s", "step s", "minutes", "MFU", "bound by"), "-"
        )
    with_it = " + checkpointing" if row["checkpointing"] else ""
    with_it += " (tight)" if row["fits"] == "tight" else ""
    seconds = {name: f"{row[f'{key}_s']:.2f}" for name, key in SECONDS.items()}
    return {
        "GPUs": row["machine"],
        "setting": row["setting"] + with_it + (" *" if row["own"] else ""),
        **seconds,
        "minutes": f"{row['minutes']:,.0f}",
        "MFU": f"{row['mfu']:.0%}",
        "bound by": row["bound_by"],
    }


def _facts(plan: dict[str, Any]) -> list[str]:
    what, inputs, disk, share = plan["training"], plan["inputs"], plan["disk"], plan["utilisation"]
    trained = "all trained" if what["trained"] == what["parameters"] else f"{what['trained']:,} of them trained"
    rows = {
        "model": f"{what['base']}: {what['parameters']:,} parameters, {trained}; sizes from {inputs['model']}",
        "data": f"{what['pairs']:,} examples, {what['tokens']:,} tokens, {what['target_tokens']:,} of them targets; "
        f"{inputs['data']}",
        "GPUs": inputs["machine"],
        "steps": f"{what['steps']:,} in {what['epochs']} epoch(s){_last_batch(what)}, {what['warmup_steps']:,} of them "
        f"warm-up; global batch {what['global_batch']} = {what['micro_batch']} x {what['processes']} process(es) x "
        f"{what['accumulation']} accumulated",
        "padding": f"tokens of all that is computed: flat 100%, padded to the longest of {what['micro_batch']} "
        f"{share['pad']:.0%}, padded to {what['max_length']} {share['pad to max_length']:.0%}; this profile: "
        f"{what['batching']}",
        "compute": f"{_flops(plan['flops']['step'])} a step, {_flops(plan['flops']['all'])} in all",
        "disk": f"{_bytes(disk['checkpoint'])} a checkpoint, {_bytes(disk['model'])} the model; "
        f"{_bytes(disk['needed'])} must be free",
    }
    return [_fold(f"{name:<9}{said}", 9) for name, said in rows.items()]


def _last_batch(what: dict[str, Any]) -> str:
    left = what["pairs"] % what["global_batch"]
    if not left:
        return ""
    return f" (the last {left} examples of each are {'left out' if what['drop_last'] else 'a smaller batch'})"


def _memory_notes(plan: dict[str, Any]) -> list[str]:
    if plan["machine"]["gpu"] is None:
        return [
            "Float32 on the CPU: 4 bytes weight, 4 gradient, 8 for AdamW's moments; activations 112 s h bytes a layer, "
            "s tokens, h hidden, and the logits of all s tokens. Python and its libraries take some 500 MiB more."
        ]
    return [
        f"* the profile's own. States of ZeRO-2 and ZeRO-3: {plan['inputs']['states']}; (16 P): the ZeRO paper's count "
        "(arXiv 1910.02054), without the float32 copy of gradients. The verdict uses the larger.",
        "Activations: 56 s h bytes a layer, s tokens, h hidden (ml-engineering), and the logits of all s tokens. "
        "Buffers: DeepSpeed's buckets, and an allowance of 1.5 GiB for CUDA and NCCL.",
        "Host: memory of one node for loading, or for what is off-loaded, with DeepSpeed's factor of 1.5. DeepSpeed "
        "reckons with a float32 copy in every process; this trainer loads bfloat16 under ZeRO, half of that.",
        "tight: less than a tenth of the GPU's memory is left.",
    ]


def _fold(line: str, indent: int = 0) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)


def _flops(count: float) -> str:
    unit = next((unit for unit in UNITS if count >= UNITS[unit]), "MFLOP")
    return f"{count / UNITS[unit]:,.4g} {unit}"


def _unit(plan: dict[str, Any]) -> str:
    return "GiB for each GPU, and for each node's host" if plan["machine"]["gpu"] else "MiB"


def _columns(rows: list[dict[str, str]], right_from: int) -> str:
    return columns([list(rows[0]), *(list(row.values()) for row in rows)], right_from=right_from)


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _yaml(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, value)
