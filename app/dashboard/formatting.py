"""Numbers and times as people read them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from bitbudget.app.contract.events import Progress
from bitbudget.app.core.duration import duration_words
from bitbudget.app.core.formats import FLOAT_FORMATS, Mode, parse_format
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.sizes import format_size

__all__ = [
    "budget_words",
    "cell",
    "format_words",
    "gap_words",
    "kl",
    "module_words",
    "name_of",
    "role_words",
    "short",
    "size_unit",
    "when",
]

_ROLES = {
    "self_attn": "attn",
    "attention": "attn",
    "switch_mlp": "experts",
    "switch_glu": "experts",
    "shared_expert": "shared expert",
    "shared_experts": "shared expert",
    "shared_mlp": "shared expert",
    "shared_expert_gate": "shared expert router",
}
_AROUND_EXPERTS = ("mlp", "block_sparse_moe", "feed_forward", "moe", "mixer")
_MODULES = {
    "embed_tokens": "Token embeddings: a vector for every token",
    "lm_head": "Output head: a score for every token",
    "q_proj": "Queries of attention",
    "k_proj": "Keys of attention: stored in the KV cache",
    "v_proj": "Values of attention: stored in the KV cache",
    "o_proj": "Output of attention",
    "shared_expert_gate": "Router of the shared expert: how much of it a token takes",
    "gate": "Router: chooses the experts of a token",
    "router": "Router: chooses the experts of a token",
}
_PARTS = {"gate_proj": "Gate", "up_proj": "Input", "down_proj": "Output"}
_OWNERS = {
    "experts": "the experts, of which each token goes through a few",
    "shared expert": "the shared expert, which every token goes through",
    "mlp": "the feed-forward network",
}
_HUGE = 10_000
_LARGE = 10
_TENTH = 0.1
_SMALL = 1e-4
_GIB = 2**30
_PROVEN = 1e-4


def kl(nats: float) -> str:
    """Return a KL with three significant digits."""
    if nats == 0 or not math.isfinite(nats):
        return f"{nats:g}"
    return f"{nats:.2e}" if abs(nats) < _SMALL else f"{float(f'{nats:.3g}'):.10g}"


def gap_words(status: str, gap: float) -> str:
    """Return how far an answer can be from the best, as words."""
    if status == "optimal" and gap <= _PROVEN:
        return "proven optimal"
    return f"at most {max(gap, 0.0001):.2%} from optimal"


def cell(value: object) -> str:
    """Return a table's value: thousands apart, few digits, a dash for nothing."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= _HUGE:
        return f"{value:,.0f}"
    if abs(value) >= _LARGE:
        return f"{value:,.1f}"
    return f"{value:.4f}" if abs(value) >= _TENTH else kl(value)


def short(name: str) -> str:
    """Return a format's name as short as a cell: `4g64`."""
    return parse_format(name).short_name


def module_words(column: str) -> str:
    """Return a module's place in its layer in words: `self_attn.q_proj` -> `attn q`.

    What is about experts says so: `mlp.switch_mlp.up_proj` -> `experts up`, `mlp.gate` -> `router`.
    """
    if column.endswith((".gate", ".router")):
        return "router"
    parts = [_ROLES.get(part, part) for part in column.split(".")]
    if len(parts) > 1 and "expert" in parts[1] and parts[0] in _AROUND_EXPERTS:
        parts = parts[1:]
    return " ".join(re.sub(r"_proj$", "", part).replace("_", " ") for part in parts)


def role_words(path: str) -> str:
    """Return what a module does, in words of the field; "" where its name does not tell."""
    parts = path.split(".")
    layer = next((part for part in parts if part.isdecimal()), None)
    found = _MODULES.get(parts[-1], "")
    if parts[-1] in _PARTS:
        roles = [_ROLES.get(part, part) for part in parts]
        owner = next((said for name, said in _OWNERS.items() if name in roles), "")
        found = f"{_PARTS[parts[-1]]} of {owner}" if owner else ""
    where = f" (layer {layer})" if layer is not None else ""
    return f"{found}{where}." if found else ""


def format_words(name: str) -> str:
    """Return how a format stores weights, in words."""
    format_ = parse_format(name)
    if format_.mode is Mode.KEEP:
        return "not quantized"
    kind = "floats" if format_ in FLOAT_FORMATS else "integers"
    return f"{format_.bits}-bit {kind}, one scale for {format_.group_size} weights"


def name_of(model: str) -> str:
    """Return a model's name without the folders above it; Hub ids stay whole."""
    is_folder = model.startswith(("/", ".", "~")) or model.count("/") > 1
    return model.rstrip("/").rsplit("/", 1)[-1] if is_folder else model


def budget_words(request: AllocationRequest) -> str:
    """Return what was asked for."""
    parts = []
    if request.budget_bytes is not None:
        said = request.budget if isinstance(request.budget, str) else ""
        parts.append(f"within {said or format_size(request.budget_bytes)}")
    if request.device is not None:
        context = f" with {request.context:,} tokens" if request.context else ""
        parts.append(f"on {request.device}{context}")
    if request.min_safe:
        parts.append("the smallest safe size")
    return ", ".join(parts)


def size_unit(largest_bytes: int) -> tuple[str, int]:
    """Return the unit of an axis up to `largest_bytes`, and its bytes."""
    if largest_bytes < _GIB:
        return "MiB", 2**20
    return "GiB", _GIB


def when(moment: datetime) -> str:
    """Return a time to the minute, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def progress_words(progress: Progress) -> str:
    """Return how far a step is, how fast, and what it is at."""
    is_bytes = progress.unit == "bytes"

    def say(count: float) -> str:
        return format_size(int(count)) if is_bytes else f"{count:,.0f}"

    total = f" of {say(progress.total)}" if progress.total else ""
    parts = [f"{say(progress.done)}{total}{'' if is_bytes else ' ' + progress.unit}"]
    if progress.seconds > 0 and progress.done:
        speed = progress.done / progress.seconds
        if speed >= 1:
            rate = f"{format_size(int(speed))}/s" if is_bytes else f"{speed:,.0f} {progress.unit}/s"
            parts.append(rate)
    if progress.seconds_left is not None:
        parts.append(f"{duration_words(progress.seconds_left)} left of the job")
    if progress.detail:
        parts.append(progress.detail)
    return " · ".join(parts)
