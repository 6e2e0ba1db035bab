"""What a manifest chose for the KV caches, read from the file that lies beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.kv import KV_GROUP_SIZES
from bitbudget.kv.codecs import AffineCodec, Codec, PlainCodec, RotatedCodec

__all__ = ["MANIFEST_NAME", "ChosenCaches", "chosen_caches", "wrong_format"]

MANIFEST_NAME: Final = "manifest.json"
_AFFINE_BITS: Final = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True, slots=True)
class ChosenCaches:
    """The caches that a manifest chose: codecs of keys and values by cache layer.

    `is_stock` says that mlx-lm's own quantized cache is to hold them, without our attention.
    """

    codecs: Mapping[int, tuple[Codec, Codec]] = field(default_factory=dict)
    is_stock: bool = True


def chosen_caches(manifest: Path) -> ChosenCaches:
    """Return what a manifest chose; no codecs where it leaves the caches alone.

    Raises InvalidModelError, with layer and format, for what no codec of this version can be.
    """
    if not manifest.is_file():
        return ChosenCaches()
    try:
        document = json.loads(manifest.read_bytes())
        chosen = dict(document.get("kv_cache") or {})
        runtime = document.get("request", {}).get("runtime", "stock")
    except (ValueError, AttributeError, TypeError) as error:
        raise wrong_format("the document", str(error)[:200], "a manifest of bitbudget") from error
    codecs = {_layer(layer): _sides(layer, sides) for layer, sides in chosen.items()}
    return ChosenCaches(codecs, runtime == "stock")


def wrong_format(where: str, found: str, expected: str) -> InvalidModelError:
    """Return the error for KV formats that a model cannot have; `where` is in the manifest."""
    return InvalidModelError(
        where=f"{MANIFEST_NAME}: {where}",
        found=found,
        expected=expected,
        remedy="restore the manifest that was written with these weights, or allocate again",
    )


def _layer(name: str) -> int:
    if not name.isdecimal():
        raise wrong_format("kv_cache", f"layer {name[:40]!r}", "the number of a layer")
    return int(name)


def _sides(layer: str, sides: Any) -> tuple[Codec, Codec]:
    found = []
    for side in ("keys", "values"):
        choice = (sides.get(side) or sides.get("both")) if isinstance(sides, dict) else None
        where = f"kv_cache, layer {layer}, {side}"
        if not isinstance(choice, dict):
            raise wrong_format(where, "no format", "`both`, or `keys` and `values`")
        try:
            found.append(_codec(choice))
        except (KeyError, TypeError, ValueError) as error:
            shown = json.dumps(choice)[:120]
            raise wrong_format(where, f"{shown} ({error})", "a format of this version") from error
    return found[0], found[1]


def _codec(choice: Mapping[str, Any]) -> Codec:
    bits, group_size = int(choice["bits"]), int(choice["group_size"])
    if choice.get("rotated"):
        return RotatedCodec(bits, int(choice["width"]), int(choice["seed"]))
    if not group_size:
        return PlainCodec()
    if bits not in _AFFINE_BITS or group_size not in KV_GROUP_SIZES:
        msg = f"affine codes have bits of {_AFFINE_BITS} and groups of {KV_GROUP_SIZES}"
        raise ValueError(msg)
    return AffineCodec(bits, group_size)
