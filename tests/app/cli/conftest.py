"""Manifests small enough to read, and the command line run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.cli.main import main
from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.formats import Format, parse_format
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest


@dataclass(frozen=True)
class Answer:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output as the one JSON object it must be."""
        return dict(json.loads(self.out))


Run = Callable[..., Answer]


@pytest.fixture
def bitbudget(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command and return its exit code and output."""

    def run(*words: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Answer(stop.value.code, captured.out, captured.err)

    return run


def build_manifest(measurement: Measurement, name: str) -> Manifest:
    """Store every module in one format where it is legal, else keep it."""
    wish = parse_format(name)
    formats: dict[str, Format] = {}
    for module in measurement.inventory.modules:
        legal = module.legal_formats()
        formats[module.path] = wish if wish in legal else legal[-1]
    layout = plan_checkpoint(measurement.inventory)
    kl = sum(measurement.curve(path).point(f).kl_nats for path, f in formats.items())
    nbytes = layout.file_bytes(formats)
    allocation = Allocation(
        formats=formats,
        file_bytes=nbytes,
        budget_bytes=nbytes + 7,
        predicted_kl_nats_per_token=kl,
        bound=kl,
        gap=0.0,
        shadow_price_nats_per_byte=1e-9,
        status="optimal",
        solver="uniform",
    )
    return Manifest.build(measurement, layout, AllocationRequest(budget=nbytes + 7), allocation)


@pytest.fixture
def manifest_file(measurement: Measurement, tmp_path: Path) -> Path:
    """A manifest on disk: 4-bit wherever a group divides the width."""
    file = tmp_path / "manifest.json"
    file.write_bytes(build_manifest(measurement, "affine4g64").to_bytes())
    return file


@pytest.fixture
def measurement_file(measurement: Measurement, tmp_path: Path) -> Path:
    """A measurement on disk."""
    file = tmp_path / "measurement.json"
    file.write_bytes(measurement.to_json())
    return file
