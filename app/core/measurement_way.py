"""How a measurement was made, against how it was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bitbudget.app.core.calibration_text import NO_TEXT, OwnText
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.measurement_bounds import refusal, require
from bitbudget.app.core.requests import JobRequest, Rotation
from bitbudget.app.core.rotation_choice import auto_rotations
from bitbudget.app.core.runtime import Runtime

__all__ = ["WAY", "check_stated", "check_way"]

WAY: Final = ("effort", "encoder", "sensitivity", "rotation")
"""What a user may state of how a measurement is made, beside its text."""


def check_way(measurement: Measurement, request: JobRequest) -> None:
    """Raise InvalidRequestError unless it was made as a job asks.

    A job that names no text is answered by one on the model's own: the digest of any other text is
    known to the worker alone that reads it.
    """
    require("effort", measurement.effort, request.effort)
    require("encoder", measurement.encoder, request.encoder)
    require("sensitivity", measurement.sensitivity, request.sensitivity)
    rotation = request.rotation
    own = request.runtime is Runtime.BITBUDGET
    is_auto = rotation is Rotation.AUTO
    allowed = auto_rotations(has_own_formats=own) if is_auto else (rotation,)
    if measurement.rotation not in allowed:
        raise refusal("rotation", measurement.rotation, " or ".join(allowed))
    known = (*OwnText, NO_TEXT)
    if request.text is None and measurement.text not in known:
        raise refusal("text", measurement.text, f"{' or '.join(known)}: the job names no text")


def check_stated(where: str, measurement: Measurement, stated: Mapping[str, str | None]) -> None:
    """Raise InvalidRequestError unless a measurement is made as far as that is stated.

    `stated` holds parts of `WAY`, None where one does not matter.
    """
    for part, wanted in stated.items():
        made = str(getattr(measurement, part))
        if wanted is not None and wanted != made:
            raise InvalidRequestError(
                where=f"{where}: {part}",
                found=made,
                expected=wanted,
                remedy=f"drop --{part}, or give a measurement made so",
            )
