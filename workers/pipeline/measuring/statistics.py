"""The Fisher statistics of a model: measured once, used by every encoder and by quantize."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.encoders import ENCODERS, Encoder, usable_encoder
from bitbudget.app.core.errors import ConflictError, InvalidModelError
from bitbudget.app.core.formats import Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import ModelIdentity
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.fisher import Statistics, begin_collecting, collect_statistics
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.home import Home, write_whole
from bitbudget.workers.pipeline.measuring.kv import source_dtype
from bitbudget.workers.pipeline.measuring.tokens import measurement_tokens
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.pipeline.report import StepReport
from bitbudget.workers.quantize.coding import arrays_alone
from bitbudget.workers.quantize.encoding import EncodePart, check_weights, weight_encoder
from bitbudget.workers.sequential import Plan, code_sequentially, read_coded

__all__ = ["SEQUENCE", "manifest_encoder", "take_statistics"]

SEQUENCE: Final = "sequence"
"""Folder beside a manifest in which its layers are coded; removed with the finished checkpoint."""


def take_statistics(
    checkpoint: Checkpoint,
    inventory: Inventory,
    options: MeasureOptions,
    home: Home,
    report: StepReport,
) -> Statistics:
    """Return the statistics, from the cache or collected now; a killed pass is taken up again."""
    model = checkpoint.identity(home.digests)
    folder = _folder(model, options, home)
    pointer = _pointer(options.key(model), home)
    write_whole(pointer, str(options.seed).encode())
    if options.text is not None:
        write_whole(pointer.with_suffix(".text"), options.text_bytes())
    tokens = _tokens(checkpoint, inventory, options, folder, report)
    try:
        return collect_statistics(
            checkpoint.folder,
            tokens,
            seed=options.seed,
            progress=lambda done, total: report.progress(done, total, "steps", "sensitivity"),
            scratch=folder,
            source_dtype=source_dtype(inventory),
        )
    except InvalidModelError:
        check_weights(checkpoint, inventory)
        raise


def manifest_encoder(
    checkpoint: Checkpoint,
    inventory: Inventory,
    manifest: Manifest,
    home: Home,
    report: StepReport,
) -> EncodePart:
    """Return what encodes the modules of a manifest as its measurement did.

    A compensated encoder needs the statistics; where this machine has none, they are collected
    again from the model's own text. With them the layers are coded one after the other, each
    against what the coded layers before it pass on.

    Raises ConflictError when they came from a text that only the measuring machine had.
    """
    encoder = usable_encoder(manifest.encoder, manifest.sensitivity)
    if not ENCODERS[encoder].needs_statistics:
        return weight_encoder(encoder)
    model = checkpoint.identity(home.digests)
    pointer = _pointer(manifest.measurement, home)
    seed = int(pointer.read_text()) if pointer.is_file() else 0
    options = _own_text(manifest, seed)
    if options.key(model) != manifest.measurement:
        options = _known_text(manifest, home, options)
    statistics = take_statistics(checkpoint, inventory, options, home, report)
    plan = Plan(
        inventory,
        {path: choice.format for path, choice in manifest.modules.items()},
        manifest.encoder,
        statistics,
        lambda module, format_: arrays_alone(
            checkpoint, module, format_, manifest.encoder, statistics
        ),
    )
    coded = code_sequentially(
        checkpoint.folder,
        plan,
        home.manifest(manifest.sha256) / SEQUENCE,
        lambda done, total: report.progress(done, total, "layers", "coding in sequence"),
    )
    return _Compensating(statistics, manifest.encoder, coded).encode_part


def _own_text(manifest: Manifest, seed: int) -> MeasureOptions:
    rotation = Rotation(manifest.rotation)
    return MeasureOptions(manifest.encoder, manifest.sensitivity, rotation, None, seed)


def _known_text(manifest: Manifest, home: Home, options: MeasureOptions) -> MeasureOptions:
    text = _pointer(manifest.measurement, home).with_suffix(".text")
    if not text.is_file():
        raise ConflictError(
            what="manifest",
            name=manifest.sha256[:12],
            reason=f"encoder {manifest.encoder.value} needs the statistics of a text of the user's,"
            " which is not on this machine",
            remedy="run bitbudget measure with that text here, or allocate with --encoder careful",
        )
    return MeasureOptions(
        options.encoder, options.sensitivity, options.rotation, text, options.seed
    )


def _folder(model: ModelIdentity, options: MeasureOptions, home: Home) -> Path:
    parts = {"model": model.digest, "text": options.text_identity(), "seed": options.seed}
    return home.folder / "statistics" / sha256_of(canonical_json(parts))


def _pointer(key: str, home: Home) -> Path:
    return home.folder / "statistics" / f"{key}.seed"


def _tokens(
    checkpoint: Checkpoint,
    inventory: Inventory,
    options: MeasureOptions,
    folder: Path,
    report: StepReport,
) -> npt.NDArray[np.int32]:
    """Return the tokens, sampled once: a later run goes on with the same."""
    path = folder / "tokens.npy"
    if not path.is_file():
        if options.text is None:
            report.log("the model writes the text that sensitivity is measured on")
        tokens, hidden = measurement_tokens(
            checkpoint.folder,
            inventory.weights,
            options,
            lambda done, total: report.progress(done, total, "tokens", "the model's own text"),
        )
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(InvalidModelError):  # the pass finds out where it came from
            begin_collecting(
                checkpoint.folder,
                tokens,
                hidden,
                seed=options.seed,
                scratch=folder,
                source_dtype=source_dtype(inventory),
            )
        draft = path.with_suffix(".part.npy")
        np.save(draft, tokens)
        draft.replace(path)
    return np.asarray(np.load(path), np.int32)


class _Compensating:
    """Encodes parts of modules that are not in the files `coded` already.

    It holds the statistics, or what is coded, of one module at a time.
    """

    def __init__(self, statistics: Statistics, encoder: Encoder, coded: Mapping[str, Path]) -> None:
        self.statistics, self.encoder, self.coded = statistics, encoder, coded
        self.module = "", ModuleEncoder(None, encoder)
        self.read: tuple[str, dict[str, npt.NDArray[Any]]] = ("", {})

    def encode_part(
        self, module: Module, index: int, weight: npt.NDArray[Any], format_: Format
    ) -> dict[str, npt.NDArray[Any]]:
        is_stacked = len(module.shape) > 2  # noqa: PLR2004 - stacked experts
        if module.path in self.coded:
            if self.read[0] != module.path:
                self.read = module.path, read_coded(self.coded[module.path], module.path)
            lead = len(module.shape) - 2
            return {s: a.reshape(-1, *a.shape[lead:])[index] for s, a in self.read[1].items()}
        path, coder = self.module
        if path != module.path:
            coder = ModuleEncoder(self.statistics.get(module.path), self.encoder)
            self.module = module.path, coder
        return coder.encode(weight, module.dtype, format_, (index,) if is_stacked else ())
