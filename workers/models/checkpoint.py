"""A checkpoint on disk seen through its mlx-lm model class, without reading its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn

from bitbudget import rotated_model
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import (
    BitbudgetError,
    InvalidModelError,
    UnsupportedModelError,
)
from bitbudget.app.core.measurement import ModelIdentity
from bitbudget.workers.files.counts import check_counts
from bitbudget.workers.files.element_type import written_type
from bitbudget.workers.files.folder import float8_names
from bitbudget.workers.files.headers import SourceFile, TensorRef
from bitbudget.workers.files.heads import check_kept
from bitbudget.workers.files.layouts import SCALE, SCALED_FLOAT8
from bitbudget.workers.models.arrays import array_from, numpy_of, read_tensor, slices
from bitbudget.workers.models.digests import folder_digest
from bitbudget.workers.models.dropped import dropped_notes
from bitbudget.workers.models.experts import named_experts
from bitbudget.workers.models.library import model_classes
from bitbudget.workers.models.norms import norm_gains, norm_readers
from bitbudget.workers.models.prefixes import with_fitting_names
from bitbudget.workers.models.sanitize import Sanitized, sanitize, without_buffers
from bitbudget.workers.models.types import in_dtype
from bitbudget.workers.models.unevaluated import Unevaluated

__all__ = ["Checkpoint"]


_SMALL_BYTES: Final = 2**20


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model and what mlx-lm makes of them.

    `load` returns the source arrays by name, lazily: nothing is read before it is evaluated, and an
    array that was evaluated stays in memory as long as it is referenced, so that whoever reads
    weights calls `weights` anew and drops it.

    Weight files that come and go are given by `hold`, which keeps one on the disk while it is read;
    `outline` then stands in for `load` where shapes are enough, and `peek` reads a small tensor
    without its file. `digest` is the identity where the files' digests are known without reading
    them.

    `config` is in the words of mlx-lm's class. `unused` names tensors that are left out, `decoded`
    weights that files hold as codes and `load` gives as numbers, `own_head` a head that differs
    from the embedding, `absent` weight files that others speak of; `notes` are sentences for the
    user, `renamed` the settings in which `config` differs from the file.
    """

    name: str
    revision: str
    folder: Path
    config: JsonObject
    files: tuple[SourceFile, ...]
    load: Callable[[], dict[str, mx.array]] = field(repr=False)
    outline: Callable[[], dict[str, mx.array]] | None = field(default=None, repr=False)
    hold: Callable[[str], AbstractContextManager[Path]] | None = field(default=None, repr=False)
    peek: Callable[[TensorRef], bytes] | None = field(default=None, repr=False)
    digest: str = ""
    unused: frozenset[str] = frozenset()
    own_head: str = ""
    decoded: frozenset[str] = frozenset()
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    renamed: JsonObject = field(default_factory=dict)

    def identity(self, cache: Path | None = None) -> ModelIdentity:
        """Return name, revision and digest over config.json and the weight files.

        `cache` is a folder in which digests are remembered by path, size and time of change.
        """
        files = ["config.json", *(file.name for file in self.files)]
        digest = self.digest or folder_digest(self.folder, files, cache)
        return ModelIdentity(self.name, self.revision, digest)

    def model_without_weights(self) -> nn.Module:
        """Build the mlx-lm model from the configuration; its parameters are unevaluated.

        Raises UnsupportedModelError for a type mlx-lm has no class for, InvalidModelError for a
        configuration that its class does not accept.
        """
        model_class, arguments_class = _classes(self.config)
        check_counts(self.config, sum(len(file.tensors) for file in self.files))
        try:
            model: nn.Module = model_class(arguments_class.from_dict(self.config))
        except Exception as error:
            raise InvalidModelError(
                where="config.json",
                found=f"{type(error).__name__}: {error}"[:300],
                expected=f"what mlx-lm's class for {self.config['model_type']} accepts",
                remedy="use the config.json that belongs to the weights",
            ) from error
        model.eval()
        return model

    def sanitized(self) -> Sanitized:
        """Return the weights as the model names them, lazily, with where each comes from."""
        return self._sanitized(self.load())

    def _sanitized(self, source: Mapping[str, mx.array]) -> Sanitized:
        return self._loaded(source)[1]

    def _loaded(
        self, source: Mapping[str, mx.array], *, as_stored: bool = False
    ) -> tuple[nn.Module, Sanitized]:
        """Return a model without its weights, and the weights as it names them."""
        used = self._used(source)
        try:
            model, known = with_fitting_names(used, self.model_without_weights, self._transform)
        except BitbudgetError:
            raise
        except Exception as error:
            raise self._mismatch(error) from error
        for name, origin in known.origins.items():
            if origin and any(self._is_changed_by_loading(source) for source in origin):
                known.origins[name] = None
        check_kept(self.own_head, known.weights, self.config["model_type"])
        if as_stored:
            return model, known
        return model, in_dtype(known, written_type(self.config, self._tensors.values()), model)

    def _used(self, source: Mapping[str, mx.array]) -> dict[str, mx.array]:
        return named_experts({k: array for k, array in source.items() if k not in self.unused})

    def _is_changed_by_loading(self, name: str) -> bool:
        tensor = self._tensors.get(name)
        return tensor is None or name in self.decoded or tensor.dtype is Dtype.F64

    def _transform(self, model: nn.Module, source: Mapping[str, mx.array]) -> Sanitized:
        float8 = [name for name in source if name in self._float8]
        return without_buffers(sanitize(model, source, float8), model)

    @cached_property
    def dropped(self) -> tuple[str, ...]:
        """Sentences that name the tensors which the class drops when it loads."""
        source = self._used((self.outline or self.load)())
        model, known = with_fitting_names(source, self.model_without_weights, self._transform)

        def transform(rest: Mapping[str, mx.array]) -> Sanitized:
            return with_fitting_names(rest, lambda: model, self._transform)[1]

        return dropped_notes(source, known, transform)

    def weights(self) -> dict[str, mx.array]:
        """Return the sanitized weights, lazily."""
        return self.sanitized().weights

    def model(self, *, as_stored: bool = False) -> nn.Module:
        """Return the model with its weights, lazily; missing or odd weights are an error.

        With `as_stored` they have the types of the files, not those that are written.
        """
        return self._model(self.load(), as_stored=as_stored)

    def model_outline(self) -> nn.Module:
        """Return the model for its shapes: where the files are not all here, weights are zeros."""
        return self._model((self.outline or self.load)())

    def _model(self, source: Mapping[str, mx.array], *, as_stored: bool = False) -> nn.Module:
        model, known = self._loaded(source, as_stored=as_stored)
        try:
            model.load_weights(list(known.weights.items()), strict=True)
        except Exception as error:
            raise self._mismatch(error) from error
        model.eval()
        return model

    def _mismatch(self, error: Exception) -> BitbudgetError:
        scales = next((name for name in self._tensors if name.endswith(SCALE)), None)
        if scales is not None and not self.decoded:
            return SCALED_FLOAT8.refusal(
                f"{scales}, which mlx-lm {version('mlx-lm')} does not decode for this type"
            )
        if self.absent and "issing" in str(error):
            return InvalidModelError(
                where=self.absent[0],
                found="no such file",
                expected="every shard of the model: tensors are missing",
                remedy="download the missing shard",
            )
        return InvalidModelError(
            where=f"weights of {self.name}",
            found=f"{type(error).__name__}: {error}"[:300],
            expected=f"the tensors of a {self.config['model_type']} model as stock mlx-lm loads it",
            remedy="check that config.json and the weight files belong together; where they do, "
            f"mlx-lm {version('mlx-lm')} cannot load this model either",
        )

    @cached_property
    def _tensors(self) -> Mapping[str, TensorRef]:
        return {tensor.name: tensor for file in self.files for tensor in file.tensors}

    @cached_property
    def _float8(self) -> frozenset[str]:
        return float8_names(self.files)

    @cached_property
    def _origins(self) -> Mapping[str, tuple[str, ...] | None]:
        return self._sanitized((self.outline or self.load)()).origins

    @cached_property
    def norm_gains(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """How a norm scales the inputs (in,) of the module at a path, where one feeds it.

        Where the weight files come and go, norms that the model computes are left out.
        """
        if self.outline is None:
            return norm_gains(self.model())
        outline = self.outline()
        readers = norm_readers(self._model(outline))
        stored = self._peeked(sorted(set(readers.values())))
        outline |= {tensor.name: array for tensor, array in stored.values()}
        known = norm_gains(self._model(outline)) if stored else {}
        return {path: gains for path, gains in known.items() if readers[path] in stored}

    def _peeked(self, modules: Sequence[str]) -> dict[str, tuple[TensorRef, mx.array]]:
        """Return the stored weight of each of these modules that has a single one."""
        found = {}
        for path in modules:
            sources = self.sources(f"{path}.weight")
            if self.peek is None or sources is None or len(sources) > 1:
                continue
            array = array_from(self.peek(sources[0]), sources[0])
            if array is not None:
                found[path] = sources[0], array
        return found

    def sources(self, path: str) -> list[TensorRef] | None:
        """Return the source tensors of the weight of the module at `path`, or of the array `path`.

        One entry is the weight itself; several are its slices along the first axis, in order
        (stacked experts); None means that the model computes it from the source.
        KeyError when the model has no such weight.
        """
        origins = self._origins
        names = origins[path if path in origins else f"{path}.weight"]
        return None if names is None else [self._tensors[name] for name in names]

    def parts(self, path: str) -> Iterator[npt.NDArray[Any]]:
        """Yield the weight of the module (or the array) at `path` in NumPy, slice by slice.

        A stacked weight (experts, out, in) comes as one (out, in) part per expert, any other
        weight as one part; bf16 as its bits in uint16. One part is in memory at a time, but for a
        weight that the model computes otherwise than by stacking, which is evaluated whole.
        """
        sources = self.sources(path)
        if sources is None:
            yield from self._computed(path if path in self._origins else f"{path}.weight")
            return
        for source in sources:
            yield from self._read(source)

    def _computed(self, name: str) -> Iterator[npt.NDArray[Any]]:
        if name in self._small_computed:
            yield from slices(self._small_computed[name])
            return
        for array in self._unevaluated.take(name, self.sanitized):
            yield from slices(numpy_of(array))

    @cached_property
    def _unevaluated(self) -> Unevaluated:
        return Unevaluated()

    @cached_property
    def _small_computed(self) -> Mapping[str, npt.NDArray[Any]]:
        """Norms and the like that the model computes: many, small, and evaluated in one go."""
        weights = self.weights()
        names = [name for name, origin in self._origins.items() if origin is None]
        small = {name: weights.pop(name) for name in names if weights[name].nbytes <= _SMALL_BYTES}
        del weights
        return {name: numpy_of(array) for name, array in small.items()}

    def _read(self, source: TensorRef) -> Iterator[npt.NDArray[Any]]:
        if len(source.shape) <= 2:  # noqa: PLR2004, a matrix
            with self._held(source.file) as path:
                part = read_tensor(path.parent, source)
            yield part
            return
        nbytes = source.nbytes // source.shape[0]
        for index in range(source.shape[0]):
            offset = source.offset + index * nbytes
            yield from self._read(
                TensorRef(source.file, source.name, source.dtype, source.shape[1:], offset, nbytes)
            )

    def _held(self, name: str) -> AbstractContextManager[Path]:
        return nullcontext(self.folder / name) if self.hold is None else self.hold(name)


def _classes(config: JsonObject) -> tuple[Any, Any]:
    try:
        if rotated_model.KEY in config:
            return rotated_model.model_classes(config)
        return model_classes(config)
    except (ValueError, AttributeError) as error:
        raise UnsupportedModelError(
            model_type=config["model_type"],
            reason=f"mlx-lm {version('mlx-lm')} has no class for it",
            remedy="upgrade mlx-lm, or choose a model that mlx-lm runs",
        ) from error
