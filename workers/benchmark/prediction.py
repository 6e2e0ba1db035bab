"""What decoding speed was promised, beside what was measured."""

from __future__ import annotations

from pathlib import Path

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.decode import DECODE_EFFICIENCY
from bitbudget.app.core.devices import DEVICES
from bitbudget.workers.models.given import read_manifest

__all__ = ["MANIFEST", "predict"]

MANIFEST = "manifest.json"


def predict(folder: Path, nbytes: int, bandwidth: float, measured: float) -> JsonObject:
    """Return the predicted tokens per second of a token that reads `nbytes`, and the request's.

    `decode_tokens_per_second` is for this machine's measured `bandwidth` (bytes per second) and
    the share of it that allocation counts on. Where the manifest in `folder` was made for a device
    or a least speed, these stand beside it; `measured` is held against them.
    """
    expected = DECODE_EFFICIENCY * bandwidth / nbytes
    path = folder / MANIFEST
    request = read_manifest(path).request if path.is_file() else None
    device = DEVICES.get(str(request.device).lower()) if request and request.device else None
    least = None if request is None else request.min_tokens_per_second
    promised = None if device is None else device.bandwidth_bytes_per_second
    return {
        "efficiency": DECODE_EFFICIENCY,
        "decode_tokens_per_second": expected,
        "measured_over_predicted": measured / expected,
        "device": None if device is None else device.name,
        "device_tokens_per_second": None if promised is None else expected * promised / bandwidth,
        "minimum_tokens_per_second": least,
        "meets_minimum": None if least is None else measured >= least,
    }
