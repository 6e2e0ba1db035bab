"""The Fisher statistics of a model: measured once, used by every encoder and by quantize."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbudget.app.contract.durations import share, statistics_s, text_s
from bitbudget.app.contract.home import Folder, Home
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.encoders import ENCODERS, Encoder, usable_encoder
from bitbudget.app.core.errors import ConflictError, InvalidModelError
from bitbudget.app.core.formats import Format
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import ModelIdentity
from bitbudget.app.core.runtime import Runtime
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.evaluate.cache import ReferenceCache
from bitbudget.workers.fisher import Statistics, begin_collecting, collect_statistics
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.pipeline.measuring.kv import source_dtype
from bitbudget.workers.pipeline.measuring.tokens import measurement_tokens
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.pipeline.run import Run, Variant
from bitbudget.workers.quantize.coding import arrays_alone
from bitbudget.workers.quantize.encoding import EncodePart, check_weights, weight_encoder
from bitbudget.workers.sequential import Plan, code_sequentially, read_coded

__all__ = ["manifest_encoder", "sequence_folder", "take_statistics"]


def sequence_folder(run: Run, measurement_key: str, formats: Mapping[str, Format]) -> Path:
    """Return where the layers of an allocation are coded in sequence.

    The checkpoint that measures a prediction is coded there, and that of a manifest with the same
    formats goes on from it. It is removed with the finished checkpoint.
    """
    named = {path: str(format_) for path, format_ in formats.items()}
    digest = sha256_of(canonical_json([measurement_key, named]))
    return run.home.scratch / f"sequence-{digest}"


def take_statistics(run: Run, variant: Variant) -> Statistics:
    """Return the statistics, from the cache or collected now; a killed pass is taken up again."""
    checkpoint, options, report = variant.checkpoint, variant.options, run.report
    model = checkpoint.identity(run.home.digests)
    folder = _folder(model, options, run.home)
    pointer = _pointer(options.key(model), run.home)
    write_whole(pointer, str(options.seed).encode())
    if options.text is not None:
        write_whole(pointer.with_suffix(".text"), options.text_bytes())
    work = run.work_on(variant)
    with report.part(share(text_s(work), statistics_s(work))):
        tokens = _tokens(run, variant, folder)
    try:
        return collect_statistics(
            checkpoint.folder,
            tokens,
            seed=options.seed,
            progress=lambda done, total: report.progress(done, total, "steps", "sensitivity"),
            scratch=folder,
            source_dtype=source_dtype(variant.inventory),
        )
    except InvalidModelError:
        check_weights(checkpoint, variant.inventory)
        raise


def manifest_encoder(run: Run, variant: Variant, manifest: Manifest) -> EncodePart:
    """Return what encodes the modules of a manifest as its measurement did.

    A compensated encoder needs the statistics; where this machine has none, they are collected
    again from the model's own text. With them the layers are coded one after the other, each
    against what the coded layers before it pass on.

    Raises ConflictError when they came from a text that only the measuring machine had.
    """
    encoder = usable_encoder(manifest.encoder, manifest.sensitivity)
    if not ENCODERS[encoder].needs_statistics:
        return weight_encoder(encoder)
    checkpoint = variant.checkpoint
    measured = replace(variant, options=_as_measured(run, variant, manifest))
    with run.report.part(0.5):
        statistics = take_statistics(run, measured)
    plan = Plan(
        variant.inventory,
        manifest.formats,
        manifest.encoder,
        statistics,
        lambda module, format_: arrays_alone(
            checkpoint, module, format_, manifest.encoder, statistics
        ),
    )
    coded = code_sequentially(
        checkpoint.folder,
        plan,
        sequence_folder(run, manifest.measurement, manifest.formats),
        lambda done, total: run.report.progress(done, total, "layers", "coding in sequence"),
    )
    return _Compensating(statistics, manifest.encoder, coded).encode_part


def _as_measured(run: Run, variant: Variant, manifest: Manifest) -> MeasureOptions:
    """Return how the statistics behind a manifest were taken."""
    pointer = _pointer(manifest.measurement, run.home)
    seed = int(pointer.read_text()) if pointer.is_file() else 0
    model = variant.checkpoint.identity(run.home.digests)
    options = MeasureOptions.of_manifest(manifest, seed)
    for each in (MeasureOptions.of_manifest(manifest, seed, runtime) for runtime in Runtime):
        if each.key(model) == manifest.measurement:
            return each
    text = pointer.with_suffix(".text")
    if not text.is_file():
        raise ConflictError(
            what="manifest",
            name=manifest.sha256[:12],
            reason=f"encoder {manifest.encoder.value} needs the statistics of a text of the user's,"
            " which is not on this machine",
            remedy="run bitbudget measure with that text here, or allocate with --encoder careful",
        )
    return replace(options, text=text)


def _folder(model: ModelIdentity, options: MeasureOptions, home: Home) -> Path:
    parts = {
        "model": model.digest,
        "text": options.text_identity(),
        "seed": options.seed,
        "effort": options.effort.value,
    }
    return home.at(Folder.STATISTICS) / sha256_of(canonical_json(parts))


def _pointer(key: str, home: Home) -> Path:
    return home.at(Folder.STATISTICS) / f"{key}.seed"


def _tokens(run: Run, variant: Variant, folder: Path) -> npt.NDArray[np.int32]:
    """Return the tokens, sampled once: a later run goes on with the same."""
    path, report = folder / "tokens.npy", run.report
    if not path.is_file():
        if variant.options.text is None:
            report.log("the model writes the text that sensitivity is measured on")
        tokens, hidden = measurement_tokens(
            variant.checkpoint.folder,
            variant.inventory.weights,
            variant.options,
            ReferenceCache(
                run.home.reference(variant.checkpoint.identity(run.home.digests).digest)
            ),
            lambda done, total: report.progress(done, total, "tokens", "the model's own text"),
        )
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(InvalidModelError):  # the pass finds out where it came from
            begin_collecting(
                variant.checkpoint.folder,
                tokens,
                hidden,
                seed=variant.options.seed,
                scratch=folder,
                source_dtype=source_dtype(variant.inventory),
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
