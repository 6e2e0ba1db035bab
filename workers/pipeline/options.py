"""How a measurement is made: the fields that measuring tasks and jobs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import ALL_FORMATS, Format
from bitbudget.app.core.measurement import Encoder, ModelIdentity, Sensitivity, measurement_key
from bitbudget.app.core.requests import JobRequest, Rotation

__all__ = ["MeasureOptions", "user_text"]


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """Encoder, sensitivity and data of a measurement."""

    encoder: Encoder
    sensitivity: Sensitivity
    rotation: Rotation
    text: Path | None
    seed: int
    formats: tuple[Format, ...] = ALL_FORMATS
    features: str = "default"
    cluster: str | None = None

    @classmethod
    def of_job(cls, request: JobRequest) -> MeasureOptions:
        """Return what a job measures; every format, so that later budgets are free."""
        return cls(
            encoder=request.encoder,
            sensitivity=request.sensitivity,
            rotation=request.rotation,
            text=None if request.text is None else Path(request.text),
            seed=request.seed,
        )

    @classmethod
    def of_task(cls, task: MeasureTask) -> MeasureOptions:
        """Return what a measuring task asks for."""
        return cls(
            encoder=task.encoder,
            sensitivity=task.sensitivity,
            rotation=task.rotation,
            text=None if task.text is None else Path(task.text),
            seed=task.seed,
            formats=task.formats or ALL_FORMATS,
            features=task.features,
            cluster=task.cluster,
        )

    @property
    def needs_whole_model(self) -> bool:
        """Whether the model is run or rotated, and not only its weights read one by one."""
        return self.sensitivity is not Sensitivity.WEIGHTS or self.rotation is not Rotation.NONE

    def text_identity(self) -> str:
        """Return which tokens sensitivity uses: `self`, `none` or the SHA-256 of the text."""
        if self.sensitivity is Sensitivity.WEIGHTS:
            return "none"
        return "self" if self.text is None else sha256_of(self.text_bytes())

    def text_bytes(self) -> bytes:
        """Return the user's text; InvalidRequestError when it cannot be read."""
        return user_text(self.text or Path())

    def key(self, model: ModelIdentity) -> str:
        """Return the key of the measurement that these options give."""
        return measurement_key(
            model.digest, self.encoder, self.sensitivity, self.text_identity(), self.rotation.value
        )

    def cache_name(self, model: ModelIdentity) -> str:
        """Return the folder name of the measurement: its key and whatever else shapes it."""
        parts = {
            "key": self.key(model),
            "seed": self.seed,
            "formats": sorted(str(format_) for format_ in self.formats),
            "features": self.features,
        }
        return sha256_of(canonical_json(parts))


def user_text(path: Path) -> bytes:
    """Return the text a user named; InvalidRequestError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(
            where="text",
            found=f"{path}: {error.strerror}",
            expected="a text file on the worker's machine",
            remedy="check the path",
        ) from error
