"""Formats and decision groups that each runtime offers, in proven allocations."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import ALL_FORMATS, KEEP, OWN_FORMATS, Format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.joined_groups import decision_groups_for
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Curve, CurvePoint, Measurement
from bitbudget.app.core.requests import AllocationRequest, JobRequest, Rotation
from bitbudget.app.core.runtime import Runtime, measured_formats, offered_formats
from bitbudget.app.core.solving import allocate_manifest
from tests.app.conftest import _point


def in_all_formats(measurement: Measurement) -> Measurement:
    """Return the curves with points of our own formats, a little better than affine ones."""

    def point(format_: Format, alpha: float) -> CurvePoint:
        found = _point(format_, alpha)
        return replace(found, kl_nats=0.7 * found.kl_nats) if format_ in OWN_FORMATS else found

    curves = tuple(
        Curve(c.path, c.alpha_nats, tuple(point(f, c.alpha_nats) for f in formats))
        for c in measurement.curves
        for formats in [measurement.inventory.module(c.path).legal_formats(ALL_FORMATS)]
    )
    return replace(measurement, curves=curves)


def test_only_our_own_runtime_is_offered_its_formats(measurement: Measurement) -> None:
    everything = in_all_formats(measurement)
    budgets = range(95_000, 175_000, 20_000)
    for budget in budgets:
        by_runtime = {
            runtime: allocate(everything, AllocationRequest(budget=budget, runtime=runtime))
            for runtime in ("stock", "bitbudget")
        }
        stock, ours = by_runtime["stock"], by_runtime["bitbudget"]
        assert all(format_.is_stock for format_ in stock.formats.values())
        assert any(not format_.is_stock for format_ in ours.formats.values())
        assert stock.formats == allocate(measurement, AllocationRequest(budget=budget)).formats
        assert ours.predicted_kl_nats_per_token < stock.predicted_kl_nats_per_token
        assert ours.file_bytes <= budget
        assert ours.gap <= 1e-5


def test_the_measurement_says_that_it_holds_our_own_formats(measurement: Measurement) -> None:
    everything = in_all_formats(measurement)
    assert everything.has_own_formats
    assert not measurement.has_own_formats
    assert everything.key != measurement.key
    assert set(measured_formats(Runtime.STOCK)) == set(measured_formats(Runtime.UZU))
    assert set(measured_formats(Runtime.BITBUDGET)) == set(ALL_FORMATS)


def test_the_configuration_names_our_loader(measurement: Measurement) -> None:
    asked = AllocationRequest(budget=150_000, runtime="bitbudget", formats=("two4g16",))
    manifest = allocate_manifest(in_all_formats(measurement), asked)
    assert manifest.has_own_formats
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    modes = {e["mode"] for e in manifest.quantization_config().values() if isinstance(e, dict)}
    assert modes == {"bitbudget.load:two"}


@pytest.mark.parametrize("runtime", ["stock", "uzu"])
def test_a_format_of_another_loader_is_refused(runtime: str) -> None:
    with pytest.raises(ValidationError, match="two4g16 needs another loader"):
        AllocationRequest(budget=1, runtime=runtime, formats=("two4g16",))
    with pytest.raises(ValidationError, match="zero4g64 needs another loader"):
        AllocationRequest(budget=1, runtime=runtime, pins={"*": "zero4g64"})


def _named(inventory: Inventory, *paths: str) -> Inventory:
    module = inventory.modules[1]
    made = tuple(replace(module, path=path, decision_group=path) for path in paths)
    return replace(inventory, modules=made)


def test_uzu_decides_on_what_its_converter_joins(inventory: Inventory) -> None:
    layer = "model.layers.0"
    paths = (
        *(f"{layer}.self_attn.{name}_proj" for name in "qkvo"),
        *(f"{layer}.mlp.{name}_proj" for name in ("gate", "up", "down")),
        *(f"{layer}.linear_attn.in_proj_{name}" for name in ("qkv", "z", "b", "a")),
        f"{layer}.linear_attn.out_proj",
        "model.layers.1.self_attn.q_proj",
    )
    named = _named(inventory, *paths)
    groups = decision_groups_for(named, Runtime.UZU)
    assert [[m.role for m in members] for members in groups.values()] == [
        ["q_proj", "k_proj", "v_proj"],
        ["o_proj"],
        ["gate_proj", "up_proj"],
        ["down_proj"],
        ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"],
        ["out_proj"],
        ["q_proj"],
    ]
    assert decision_groups_for(named, Runtime.STOCK) == named.decision_groups()


def test_uzu_allocates_four_and_eight_bits_in_joined_groups(measurement: Measurement) -> None:
    old = measurement.inventory.modules[1].path
    paths = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]
    inventory = _named(measurement.inventory, *paths)
    curve = measurement.curve(old)
    curves = tuple(replace(curve, path=path, alpha_nats=1.0 + i) for i, path in enumerate(paths))
    joined = replace(measurement, inventory=inventory, curves=curves)
    for budget in (31_000, 40_000, 50_000, 90_000):
        found = allocate(joined, AllocationRequest(budget=budget, runtime="uzu", sqnr_floor_db=0))
        assert len(set(found.formats.values())) == 1
        assert set(found.formats.values()) <= set(offered_formats(Runtime.UZU))
        assert found.file_bytes <= budget
    assert {f.bits for f in offered_formats(Runtime.UZU) if f != KEEP} == {4, 8}


def test_uzu_has_caches_and_rotations_of_its_own(measurement: Measurement) -> None:
    asked = AllocationRequest(budget=300_000, runtime="uzu", kv_bits=8)
    with pytest.raises(InvalidRequestError, match="runtime uzu"):
        allocate(measurement, asked)
    with pytest.raises(ValidationError, match="fused rotations"):
        JobRequest(model="m", budget=1, runtime="uzu", rotation=Rotation.FUSED)
