"""Is the prediction true? Random mixed allocations, predicted against measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np

from app.core.formats import KEEP, Format, Mode
from app.core.inventory import Inventory, Module
from app.core.measurement import Curve, Encoder, Verification
from workers.calibrate import calibrated, fit_power_law
from workers.curves import as_carried, as_float32, decode, is_compensated
from workers.encoders import encode
from workers.encoders.gptq import ModuleEncoder
from workers.evaluate import Evaluation
from workers.fisher.statistics import ModuleStatistics
from workers.models import Checkpoint

__all__ = ["ALLOCATIONS", "MOST_WEIGHTS", "agreement", "coded_weights", "float32_weight", "verify"]

ALLOCATIONS: Final = 8
MOST_WEIGHTS: Final = 50_000_000
"""Weights up to which a measurement is verified by default: all allocations are held at once."""
_ROLLOUTS: Final = 8
_LEVEL_ROLLOUTS: Final = 32
"""Rollouts one allocation is measured on: 8 alone put the level 5 % (one sigma) off."""
_LEVEL_ALLOCATION: Final = 2
_SMALLEST_KL: Final = 1e-12
_SEED: Final = 0x7E57
_CENTRES: Final = (3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0)
"""Mean bits of the allocations; a module draws its width within 1.5 bits of it."""


def verify(
    checkpoint: Checkpoint,
    inventory: Inventory,
    curves: Mapping[str, Curve],
    encoder: Encoder,
    statistics: Mapping[str, ModuleStatistics],
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Curve], Verification]:
    """Return the curves corrected by 8 random allocations, and how well they predict such.

    `curves` by module path hold the prediction; `statistics` are those they were made with. KL is
    measured on fresh rollouts of the model. Each allocation is predicted by curves that were
    corrected without it. KL differs between texts more than between allocations on one text, so
    one allocation is measured on more rollouts and all are scaled by what that changes for it.
    """
    picks = [
        _draw(inventory.modules, curves, centre, seed + i) for i, centre in enumerate(_CENTRES)
    ]
    evaluation = Evaluation(checkpoint.folder, rollouts=_LEVEL_ROLLOUTS, seed=seed + _SEED)
    rollouts = evaluation.windows["rollouts"]
    evaluation.windows = {"few": rollouts[:_ROLLOUTS], "more": rollouts[_ROLLOUTS:]}
    weights: list[dict[str, mx.array]] = [{} for _ in picks]
    for module in inventory.modules:
        values = float32_weight(checkpoint, module)
        wanted = {pick[module.path] for pick in picks} - {KEEP}
        coded = coded_weights(module, values, sorted(wanted), encoder, statistics.get(module.path))
        for pick, chosen in zip(picks, weights, strict=True):
            chosen[f"{module.path}.weight"] = mx.array(coded.get(pick[module.path], values))
    measured, level = [], 1.0
    original = evaluation.original
    kept = {f"{m.path}.weight": mx.array(float32_weight(checkpoint, m)) for m in inventory.modules}
    evaluation.taught  # noqa: B018 - the original's pass comes before its weights are replaced
    for index, chosen in enumerate(weights):
        original.load_weights(list(chosen.items()), strict=False)
        parts = ("few", "more") if index == _LEVEL_ALLOCATION else ("few",)
        report = evaluation.sets(original, f"random allocation {index}", parts)
        measured.append(report["few"]["kl_nats_per_token"])
        if index == _LEVEL_ALLOCATION:
            level = _over_all(report) / max(measured[-1], _SMALLEST_KL)
        if progress is not None:
            progress(index + 1, len(weights))
    original.load_weights(list(kept.items()), strict=False)
    measured = [kl * level for kl in measured]
    raw = [_predicted(curves, pick) for pick in picks]
    predicted = []
    for index, pick in enumerate(picks):
        others = [i for i in range(len(picks)) if i != index]
        law = fit_power_law([raw[i] for i in others], [measured[i] for i in others])
        predicted.append(_predicted(calibrated(curves, law), pick))
    bits = [_bits(inventory, pick) for pick in picks]
    found = calibrated(curves, fit_power_law(raw, measured))
    return found, agreement(predicted, measured, bits)


def _over_all(report: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean KL over the windows of every set."""
    windows = sum(part["windows"] for part in report.values())
    total = sum(part["kl_nats_per_token"] * part["windows"] for part in report.values())
    return float(total / windows)


def _predicted(curves: Mapping[str, Curve], pick: Mapping[str, Format]) -> float:
    return sum(curves[path].point(format_).kl_nats for path, format_ in pick.items())


def agreement(
    predicted: Sequence[float], measured: Sequence[float], bits: Sequence[float]
) -> Verification:
    """Return R^2 of the prediction as it stands, rank correlation, and slope through the origin."""
    x, y = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    spread = float(np.square(y - y.mean()).sum()) or 1e-30
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    return Verification(
        tuple(predicted),
        tuple(measured),
        tuple(bits),
        r_squared=1 - float(np.square(y - x).sum()) / spread,
        spearman=float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
        slope=float(x @ y / max(float(x @ x), 1e-30)),
    )


def _draw(
    modules: Sequence[Module], curves: Mapping[str, Curve], centre: float, seed: int
) -> dict[str, Format]:
    rng = np.random.default_rng(seed)
    groups: dict[str, int] = {}
    picks = {}
    for module in modules:
        offered = [point.format for point in curves[module.path].points]
        near = [f for f in offered if f.mode is Mode.AFFINE and abs(f.bits - centre) <= 1.5]  # noqa: PLR2004
        draw = groups.setdefault(module.decision_group, int(rng.integers(1 << 30)))
        picks[module.path] = near[draw % len(near)] if near else KEEP
    return picks


def coded_weights(
    module: Module,
    values: np.ndarray,
    formats: Sequence[Format],
    encoder: Encoder,
    known: ModuleStatistics | None,
) -> dict[Format, np.ndarray]:
    """Return the float32 weight in every format, as the encoder stores it."""
    result = {format_: np.empty_like(values) for format_ in formats}
    compensating = known is not None and formats and is_compensated(formats[0], encoder, known)
    coder = ModuleEncoder(known, encoder) if known is not None and compensating else None
    plain = encoder if encoder in (Encoder.MINMAX, Encoder.CAREFUL) else Encoder.CAREFUL
    for index in np.ndindex(*values.shape[:-2]):
        if coder is not None:
            for format_, part in coder.code(values[index], module.dtype, formats, index).items():
                result[format_][index] = part.values
            continue
        carried = as_carried(values[index], module.dtype)
        for format_ in formats:
            arrays = encode(carried, module.dtype, format_, plain)
            result[format_][index] = decode(arrays, format_, module.dtype)
    return result


def float32_weight(checkpoint: Checkpoint, module: Module) -> np.ndarray:
    """Return a module's weight in its shape, widened to float32."""
    parts = [as_float32(part, module.dtype) for part in checkpoint.parts(module.path)]
    return np.stack(parts).reshape(module.shape)


def _bits(inventory: Inventory, pick: Mapping[str, Format]) -> float:
    nbytes = sum(pick[m.path].data_bytes(m.shape, m.dtype) for m in inventory.modules)
    return 8 * nbytes / inventory.weights
