"""The model card of a finished checkpoint."""

from __future__ import annotations

from collections import Counter
from typing import Final

from bitbudget.app.core.calibration_text import text_words
from bitbudget.app.core.formats import Format
from bitbudget.app.core.hub_id import HubId
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.requests import Rotation
from bitbudget.app.core.sizes import format_size

__all__ = ["model_card"]

_CARD: Final = """---
library_name: mlx
pipeline_tag: text-generation
tags:
- mlx
- bitbudget
{base_model}---

# {name}, {bits:.2f} bits per weight

{name} ({model_type}) with mixed precision, chosen by bitbudget for a budget of
{budget_bytes} bytes. {loaders}:

```python
from mlx_lm import generate, load

model, tokenizer = load("path/to/this/folder"{flag})
print(generate(model, tokenizer, prompt="Once upon a time"))
```

| | |
|---|---|
| bytes of the weight files | {file_bytes} ({size}) |
| budget | {budget_bytes} |
| {label} to the original | {predicted:.3g} {unit} |
| lower bound of any allocation within the budget | {bound:.3g} |
| effort | {effort} |
| encoder | {encoder} |
| rotation | {rotation} |
| sensitivity | {sensitivity} |
| calibration text | {text} |
{origin}| source | revision {revision}, SHA-256 {digest} |
| manifest | SHA-256 {sha256} |

| format | modules | weights |
|---|---|---|
{formats}

`manifest.json` records the format of every module; `bitbudget manifest verify` checks it.
"""

_LOADER: Final = (
    "code that is in this folder, too (`bitbudget.load.py`):\n"
    "`bitbudget.load` runs its own copy, mlx-lm this one with the flag"
)
_ROTATED: Final = "Its activations are rotated at run time by"
_OWN_FORMATS: Final = "Formats that stock mlx-lm does not have are read by"
_BOTH: Final = (
    "Its activations are rotated at run time, and formats that stock mlx-lm does not have read, by"
)


def model_card(manifest: Manifest, inventory: Inventory) -> str:
    """Return the README.md of the checkpoint; it depends on the manifest alone."""
    certificate = manifest.certificate
    needs = _needs_of_code(manifest)
    return _CARD.format(
        name=manifest.model.name,
        base_model=_base_model(manifest.model.name),
        model_type=manifest.model.model_type,
        bits=manifest.bits_per_weight,
        budget_bytes=manifest.budget_bytes,
        file_bytes=manifest.file_bytes,
        size=format_size(manifest.file_bytes),
        label=manifest.objective.label,
        unit=manifest.objective.unit,
        predicted=certificate.predicted_kl_nats_per_token,
        bound=certificate.bound,
        effort=manifest.effort.value,
        encoder=manifest.encoder.value,
        rotation=manifest.rotation,
        loaders=f"{needs}\n{_LOADER}" if needs else "Stock mlx-lm loads it",
        flag=", trust_remote_code=True" if needs else "",
        sensitivity=manifest.sensitivity.value,
        text=text_words(manifest.text),
        origin=f"| measurement from | {manifest.origin} |\n" if manifest.origin else "",
        revision=manifest.model.revision,
        digest=manifest.model.digest,
        sha256=manifest.sha256,
        formats="\n".join(_rows(manifest, inventory)),
    )


def _needs_of_code(manifest: Manifest) -> str:
    """Say what stock mlx-lm lacks for this checkpoint; empty where it lacks nothing."""
    if manifest.rotation != Rotation.FUSED.value:
        return _OWN_FORMATS if manifest.has_own_formats else ""
    return _BOTH if manifest.has_own_formats else _ROTATED


def _base_model(name: str) -> str:
    """Return the line that links to the original; the Hub refuses names it does not know."""
    return f"base_model: {name}\n" if HubId.matches(name) else ""


def _rows(manifest: Manifest, inventory: Inventory) -> list[str]:
    modules: Counter[Format] = Counter()
    weights: Counter[Format] = Counter()
    for module in inventory.modules:
        chosen = manifest.modules[module.path].format
        modules[chosen] += 1
        weights[chosen] += module.weights
    return [
        f"| {format_} | {modules[format_]} | {weights[format_]} |" for format_ in sorted(modules)
    ]
