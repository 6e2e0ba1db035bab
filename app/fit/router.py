"""HTTP routes of devices and of what fits on them."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from bitbudget.app.auth.dependencies import JobsReader
from bitbudget.app.core.devices import DEVICES
from bitbudget.app.fit.dependencies import Fits
from bitbudget.app.fit.schemas import Device, Fit, FitRequest
from bitbudget.app.http.pages import Page
from bitbudget.app.http.problems import problems

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["fit"])
_READ: Final = (401, 403, 422, 429, 503)


@router.get("/devices", operation_id="listDevices", responses=problems(*_READ))
def list_devices(_: JobsReader) -> Page[Device]:
    """List the devices whose memory is known; they are all on one page."""
    items = [Device.model_validate(DEVICES[name]) for name in sorted(DEVICES)]
    return Page[Device](items=items)


@router.post("/fit", operation_id="fit", responses=problems(400, 404, 413, *_READ))
def fit_model(request: FitRequest, fits: Fits, _: JobsReader) -> Fit:
    """Tell which sizes of a model fit a device, before anything is measured.

    A model that was never here is read from its headers, a few hundred kB.
    """
    return fits.report(request)
