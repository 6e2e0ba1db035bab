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

from app.core.dtypes import Dtype
from app.core.errors import BitbudgetError, InvalidModelError, UnsupportedModelError
from app.core.measurement import ModelIdentity
from bitbudget import rotated_model
from workers.models.digests import folder_digest
from workers.models.folder import check_config, check_names, check_unquantized, read_config
from workers.models.folder import read_files as read_weight_files
from workers.models.headers import SourceFile, TensorRef
from workers.models.library import model_classes
from workers.models.norms import norm_gains
from workers.models.sanitize import Sanitized, sanitize

__all__ = [
    "MLX_DTYPES",
    "Checkpoint",
    "checkpoint_from_headers",
    "dtype_of",
    "load_files",
    "numpy_of",
    "open_checkpoint",
    "read_tensor",
]

MLX_DTYPES: Final[dict[Dtype, mx.Dtype]] = {
    Dtype.F64: mx.float64,
    Dtype.F32: mx.float32,
    Dtype.F16: mx.float16,
    Dtype.BF16: mx.bfloat16,
    Dtype.F8_E4M3: mx.uint8,
    Dtype.F8_E5M2: mx.uint8,
    Dtype.F8_E8M0: mx.uint8,
    Dtype.I64: mx.int64,
    Dtype.I32: mx.int32,
    Dtype.I16: mx.int16,
    Dtype.I8: mx.int8,
    Dtype.U64: mx.uint64,
    Dtype.U32: mx.uint32,
    Dtype.U16: mx.uint16,
    Dtype.U8: mx.uint8,
    Dtype.BOOL: mx.bool_,
}
"""What `mx.load` makes of each element type; MLX has no 8-bit floats and loads their bits."""

_STORED: Final = {
    mlx: dtype
    for dtype, mlx in MLX_DTYPES.items()
    if dtype not in (Dtype.F8_E4M3, Dtype.F8_E5M2, Dtype.F8_E8M0)
}

_SMALL_BYTES: Final = 2**20
_LIMIT_BYTES: Final = 2**32

_NUMPY: Final[dict[Dtype, type[np.generic]]] = {
    Dtype.F32: np.float32,
    Dtype.F16: np.float16,
    Dtype.BF16: np.uint16,
}


_LAYER_COUNTS: Final = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_HUGE: Final = 2**64


def dtype_of(array: mx.array) -> Dtype:
    """Return the element type that `array` is stored in."""
    return _STORED[array.dtype]


def numpy_of(array: mx.array) -> npt.NDArray[Any]:
    """Evaluate `array` and return it in NumPy, bf16 as its bits in uint16."""
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    return np.array(array)


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model and what mlx-lm makes of them.

    `load` returns the source arrays by name, lazily: nothing is read before it is evaluated, and an
    array that was evaluated stays in memory as long as it is referenced, so that whoever reads
    weights calls `weights` anew and drops it.

    Weight files that come and go are given by `hold`, which keeps one on the disk while it is read;
    `outline` then stands in for `load` where shapes are enough. `digest` is the identity where the
    files' digests are known without reading them.
    """

    name: str
    revision: str
    folder: Path
    config: dict[str, Any]
    files: tuple[SourceFile, ...]
    load: Callable[[], dict[str, mx.array]] = field(repr=False)
    outline: Callable[[], dict[str, mx.array]] | None = field(default=None, repr=False)
    hold: Callable[[str], AbstractContextManager[Path]] | None = field(default=None, repr=False)
    digest: str = ""

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
        self._check_layers()
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

    def _check_layers(self) -> None:
        """Refuse more layers than tensors before a billion modules are built."""
        text = self.config.get("text_config")
        tensors = sum(len(file.tensors) for file in self.files)
        for config in (self.config, text if isinstance(text, dict) else {}):
            for name in _LAYER_COUNTS:
                count = config.get(name)
                if isinstance(count, int) and count > tensors:
                    raise InvalidModelError(
                        where=f"config.json: {name}",
                        found=f"{count} layers" if count < _HUGE else "a huge number",
                        expected=f"at most one for each of the {tensors} tensors",
                        remedy="use the config.json that belongs to the weights",
                    )

    def sanitized(self) -> Sanitized:
        """Return the weights as the model names them, lazily, with where each comes from."""
        return self._sanitized(self.load())

    def _sanitized(self, source: Mapping[str, mx.array]) -> Sanitized:
        model = self.model_without_weights()
        try:
            return sanitize(model, source)
        except BitbudgetError:
            raise
        except Exception as error:
            raise self._mismatch(error) from error

    def weights(self) -> dict[str, mx.array]:
        """Return the sanitized weights, lazily."""
        return self.sanitized().weights

    def model(self) -> nn.Module:
        """Return the model with its weights, lazily; missing or odd weights are an error."""
        return self._model(self.load())

    def model_outline(self) -> nn.Module:
        """Return the model for its shapes: where the files are not all here, weights are zeros."""
        return self._model((self.outline or self.load)())

    def _model(self, source: Mapping[str, mx.array]) -> nn.Module:
        model = self.model_without_weights()
        try:
            model.load_weights(list(sanitize(model, source).weights.items()), strict=True)
        except Exception as error:
            raise self._mismatch(error) from error
        model.eval()
        return model

    def _mismatch(self, error: Exception) -> InvalidModelError:
        return InvalidModelError(
            where=f"weights of {self.name}",
            found=f"{type(error).__name__}: {error}"[:300],
            expected=f"the tensors of a {self.config['model_type']} model",
            remedy="check that config.json and the weight files belong together",
        )

    @cached_property
    def _tensors(self) -> Mapping[str, TensorRef]:
        return {tensor.name: tensor for file in self.files for tensor in file.tensors}

    @cached_property
    def _origins(self) -> Mapping[str, tuple[str, ...] | None]:
        return self._sanitized((self.outline or self.load)()).origins

    @cached_property
    def norm_gains(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """How a norm scales the inputs (in,) of the module at a path, where one feeds it.

        Empty where the weight files come and go: norms are not worth a download of all of them.
        """
        return {} if self.outline is not None else norm_gains(self.model())

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
            yield from _slices(self._small_computed[name])
            return
        for array in self._unevaluated.take(name, self.sanitized):
            yield from _slices(numpy_of(array))

    @cached_property
    def _unevaluated(self) -> _Unevaluated:
        return _Unevaluated()

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


@dataclass
class _Unevaluated:
    """Sanitized weights from which each is taken once, so that `sanitize` runs once for many.

    Weights made from the same source keep it in memory until all are taken; starting anew after
    _LIMIT_BYTES bounds what somebody who takes but some of them leaves behind.
    """

    weights: Sanitized | None = None
    taken_bytes: int = 0

    def take(self, name: str, sanitized: Callable[[], Sanitized]) -> Iterator[mx.array]:
        """Yield a weight, or the arrays that it is a stack of, none of them referenced here."""
        known = self.weights
        if known is None or name not in known.weights or self.taken_bytes > _LIMIT_BYTES:
            known, self.taken_bytes = sanitized(), 0
            self.weights = known
        array = known.weights.pop(name)
        parts = known.stacked.pop(name, [array])
        self.taken_bytes += array.nbytes
        del array
        parts.reverse()
        while parts:
            yield parts.pop()


def _slices(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    if array.ndim <= 2:  # noqa: PLR2004, a matrix
        yield array
        return
    for part in array:
        yield from _slices(part)


def read_tensor(folder: Path, source: TensorRef) -> npt.NDArray[Any]:
    """Read one tensor: f32 and f16 as such, bf16 as its bits in uint16, other types as bytes."""
    kind = _NUMPY.get(source.dtype, np.uint8)
    count = source.nbytes // np.dtype(kind).itemsize
    array = np.fromfile(folder / source.file, dtype=kind, count=count, offset=source.offset)
    if array.size != count:
        raise InvalidModelError(
            where=f"{source.file}: {source.name}",
            found=f"{array.nbytes} bytes",
            expected=f"{source.nbytes}: the file changed while it was read",
            remedy="start again when the model folder is complete",
        )
    return array.reshape(source.shape) if source.dtype in _NUMPY else array


def _classes(config: dict[str, Any]) -> tuple[Any, Any]:
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


def open_checkpoint(folder: Path, name: str | None = None, revision: str = "local") -> Checkpoint:
    """Open a local folder: headers are checked, no weight is read.

    Raises InvalidModelError and UnsupportedModelError for anything mlx-lm could not load dense.
    """
    config = read_config(folder)
    check_unquantized(config, folder)
    files = read_weight_files(folder)

    def load() -> dict[str, mx.array]:
        return load_files([folder / file.name for file in files])

    return Checkpoint(name or folder.resolve().name, revision, folder, config, files, load)


def load_files(paths: Sequence[Path]) -> dict[str, mx.array]:
    """Return the arrays of all files by name, lazily; InvalidModelError when MLX refuses one."""
    arrays: dict[str, mx.array] = {}
    for path in paths:
        try:
            loaded = mx.load(str(path))
        except (RuntimeError, ValueError) as error:
            raise InvalidModelError(
                where=path.name,
                found=str(error)[:200],
                expected="a safetensors file that MLX reads",
                remedy="download the file again",
            ) from error
        arrays |= loaded if isinstance(loaded, dict) else {}
    return arrays


def checkpoint_from_headers(
    name: str,
    revision: str,
    config: dict[str, Any],
    files: Sequence[SourceFile],
    digest: str = "",
) -> Checkpoint:
    """Return a checkpoint known by its headers alone, every weight an unevaluated zero.

    It gives an inventory, and nothing that needs values. `digest` is the identity, where known.
    """
    check_unquantized(check_config(config))
    checked = check_names(files)

    def load() -> dict[str, mx.array]:
        return {
            tensor.name: mx.zeros(tensor.shape, MLX_DTYPES[tensor.dtype])
            for file in checked
            for tensor in file.tensors
        }

    return Checkpoint(name, revision, Path(), config, checked, load, digest=digest)
