from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from bitbudget.app.core.allocate import allocate, allocate_nested, smallest_bytes
from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.candidates import Rules, decision_groups
from bitbudget.app.core.decode import DECODE_EFFICIENCY, decode_bytes, passthrough_decode_bytes
from bitbudget.app.core.devices import device
from bitbudget.app.core.errors import InfeasibleBudgetError, InvalidRequestError
from bitbudget.app.core.formats import KEEP, parse_format
from bitbudget.app.core.inventory import Inventory, ModuleKind
from bitbudget.app.core.kv import (
    KvFormat,
    KvSide,
    kv_format_bytes,
    plan_with_caches,
    rotation_seed,
)
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import KvCurve, KvPoint, Measurement
from bitbudget.app.core.memory import plan_memory
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.runtime import Runtime

CHIP = "m4-pro-24gb"


def request(**values: object) -> AllocationRequest:
    return AllocationRequest.model_validate(values)


def read_per_token(measurement: Measurement, allocation: Allocation) -> int:
    inventory = measurement.inventory
    return passthrough_decode_bytes(inventory) + sum(
        decode_bytes(module, allocation.formats[module.path]) for module in inventory.modules
    )


def test_decode_bytes_count_rows_ties_and_chosen_experts(inventory: Inventory) -> None:
    four = parse_format("affine4g64")
    embedding, query, _, experts = inventory.modules
    assert decode_bytes(embedding, four) == 128 // 2 + 2 * 4
    tied = replace(embedding, is_tied_head=True)
    assert decode_bytes(tied, four) == (128 // 2 + 8) * 513
    assert decode_bytes(query, KEEP) == 128 * 128 * 2
    assert experts.kind is ModuleKind.SWITCH_LINEAR
    assert decode_bytes(replace(experts, experts_per_token=2), KEEP) == 2 * 64 * 128 * 2


def test_a_speed_bounds_the_bytes_read_per_token(measurement: Measurement) -> None:
    free = allocate(measurement, request(budget="1MiB"))
    used = read_per_token(measurement, free)
    chip = device(CHIP)
    kv = plan_memory(measurement.inventory, chip, 256, 16).kv_cache_bytes
    speed = chip.bandwidth_bytes_per_second * DECODE_EFFICIENCY / (kv + used * 0.7)
    bounded = allocate(
        measurement,
        request(budget="1MiB", device=CHIP, context=256, min_tokens_per_second=speed),
    )
    assert read_per_token(measurement, bounded) <= used * 0.7
    assert bounded.predicted_kl_nats_per_token > free.predicted_kl_nats_per_token
    assert bounded.bound <= bounded.predicted_kl_nats_per_token
    assert any("bytes read per token" in note for note in bounded.notes)
    with pytest.raises(InfeasibleBudgetError, match="bytes read per token"):
        allocate(
            measurement,
            request(budget="1MiB", device=CHIP, context=256, min_tokens_per_second=speed * 1e3),
        )


def test_at_most_m_low_bit_modules_per_block(measurement: Measurement) -> None:
    inventory = measurement.inventory
    modules = tuple(
        replace(inventory.modules[1], path=f"model.layers.{layer}.{name}", layer=layer)
        for layer in range(3)
        for name in ("q", "k", "v", "o")
    )
    modules = tuple(replace(module, decision_group=module.path) for module in modules)
    curve = measurement.curve(inventory.modules[1].path)
    many = replace(
        measurement,
        inventory=replace(inventory, modules=modules, passthrough=()),
        curves=tuple(replace(curve, path=module.path) for module in modules),
    )
    layout = plan_checkpoint(many.inventory)
    three = parse_format("affine3g64")
    budget = layout.file_bytes({module.path: three for module in modules}) + 9000
    free = allocate(many, request(budget=budget, sqnr_floor_db=0))
    bounded = allocate(many, request(budget=budget, sqnr_floor_db=0, max_low_bit_per_block=2))
    for layer in range(3):
        low = [
            module.path
            for module in modules
            if module.layer == layer
            and bounded.formats[module.path] != KEEP
            and bounded.formats[module.path].bits <= 3
        ]
        assert len(low) <= 2
    assert bounded.predicted_kl_nats_per_token >= free.predicted_kl_nats_per_token
    assert bounded.file_bytes <= budget
    with pytest.raises(InfeasibleBudgetError):
        allocate(many, request(budget=budget, sqnr_floor_db=0, max_low_bit_per_block=0))


def test_nested_allocations_only_shrink(measurement: Measurement) -> None:
    least = smallest_bytes(measurement, Rules())
    budgets = [least * 4, least * 2, least * 3 // 2, least]
    steps = allocate_nested(measurement, [request(budget=budget) for budget in budgets])
    groups = {g.modules[0].path: g for g in decision_groups(measurement, Rules())}
    for larger, smaller in itertools.pairwise(steps):
        assert smaller.predicted_kl_nats_per_token >= larger.predicted_kl_nats_per_token
        for path, group in groups.items():
            sizes = dict(zip(group.formats, group.bytes, strict=True))
            assert sizes[smaller.formats[path]] <= sizes[larger.formats[path]]
    assert steps[-1].file_bytes == least


def test_a_device_and_a_budget_both_hold(measurement: Measurement) -> None:
    both = allocate(measurement, request(budget="1MiB", device=CHIP, context=256))
    assert both.budget_bytes == 2**20
    roomy = allocate(measurement, request(device=CHIP, context=256))
    plan = plan_memory(measurement.inventory, device(CHIP), 256, 16)
    assert roomy.budget_bytes == plan.weights_limit_bytes
    assert set(roomy.formats.values()) == {KEEP}


def with_kv(measurement: Measurement) -> Measurement:
    curves = tuple(
        KvCurve(layer, (KvPoint(8, 1e-4 * (layer + 1), 32), KvPoint(4, 1e-2 * (layer + 1), 32)))
        for layer in range(2)
    )
    return replace(measurement, kv_curves=curves)


def long_context(measurement: Measurement, tokens: int, heads: int = 4) -> Measurement:
    """A model whose KV cache is far larger than its weights."""
    inventory = measurement.inventory
    cache = tuple(
        replace(layer, elements_per_token=65_536, value_width=layer.head_width)
        for layer in inventory.architecture.cache
    )
    architecture = replace(
        inventory.architecture, max_context=tokens, cache=cache, attention_heads=heads
    )
    return replace(measurement, inventory=replace(inventory, architecture=architecture))


def test_kv_bits_are_chosen_with_the_weights(measurement: Measurement) -> None:
    context = 65_536
    long = long_context(with_kv(measurement), context)
    joint = allocate(long, request(device=CHIP, context=context, joint_kv=True))
    both = KvSide.BOTH
    assert joint.kv_formats == {0: {both: KvFormat(8, 32)}, 1: {both: KvFormat(16)}}
    plan = plan_memory(long.inventory, device(CHIP), context, 4)
    kv_bytes = sum(
        kv_format_bytes(cache, context, joint.kv_formats[cache.layer][both], 2)
        for cache in long.inventory.architecture.cache
    )
    assert joint.file_bytes + kv_bytes <= plan.weights_limit_bytes + plan.kv_cache_bytes
    assert joint.file_bytes <= joint.budget_bytes
    with pytest.raises(InfeasibleBudgetError):
        allocate(long, request(device=CHIP, context=context))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"device": CHIP}, "context"),
        ({"budget": "1MiB", "min_tokens_per_second": 10}, "no device"),
        ({"budget": "1MiB", "joint_kv": True}, "no device"),
        ({"device": CHIP, "context": 256, "joint_kv": True}, "KV cache of layer 0"),
        ({"device": CHIP, "context": 300}, "1 to 256"),
    ],
)
def test_what_is_missing_is_named(
    measurement: Measurement, values: dict[str, object], named: str
) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        allocate(measurement, request(**values))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_joint_kv_is_never_worse_than_one_width_for_all(
    measurement: Measurement, share: float
) -> None:
    """At the memory of one device, over contexts whose cache takes much or little of it."""
    context = int(share * 131_072)
    long = long_context(with_kv(measurement), context)
    joint = _try(long, device=CHIP, context=context, joint_kv=True)
    for bits in (16, 8, 4):
        single = _try(long, device=CHIP, context=context, kv_bits=bits)
        if single is None:
            continue
        curves = {curve.layer: curve.points for curve in long.kv_curves}
        cost = sum(p.kl_nats for points in curves.values() for p in points if p.bits == bits)
        assert joint is not None
        assert joint.predicted_kl_nats_per_token <= (single.predicted_kl_nats_per_token + cost) * (
            1 + 1e-6
        )
    if joint is not None:
        assert joint.kv_formats is not None
        plan = plan_with_caches(
            long.inventory, device(CHIP), context, joint.kv_formats, Runtime.STOCK
        )
        assert joint.file_bytes <= plan.weights_limit_bytes


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 1.2])
def test_more_kv_formats_are_never_worse_than_affine_ones(
    measurement: Measurement, share: float
) -> None:
    """Keys and values apart, codebooks beside affine groups, and no scores held at prefill.

    With as many query heads as models have, whose scores are larger than a layer's dense cache.
    """
    context = int(share * 131_072)
    long = long_context(with_kv_sides(measurement), context, heads=64)
    stock = _try(long, device=CHIP, context=context, joint_kv=True)
    ours = _try(long, device=CHIP, context=context, joint_kv=True, runtime="bitbudget")
    if stock is not None:
        assert ours is not None
        most = stock.predicted_kl_nats_per_token * (1 + 1e-6)
        assert ours.predicted_kl_nats_per_token <= most
    if ours is not None:
        assert ours.kv_formats is not None
        plan = plan_with_caches(
            long.inventory, device(CHIP), context, ours.kv_formats, Runtime.BITBUDGET
        )
        assert ours.file_bytes <= plan.weights_limit_bytes


def with_kv_sides(measurement: Measurement) -> Measurement:
    def side(scale: float) -> tuple[KvPoint, ...]:
        return (
            KvPoint(8, 5e-5 * scale, 32),
            KvPoint(4, 5e-3 * scale, 32),
            KvPoint(4, 3e-3 * scale, 0, rotated=True),
            KvPoint(3, 1e-2 * scale, 0, rotated=True),
            KvPoint(2, 5e-2 * scale, 0, rotated=True),
        )

    curves = tuple(
        replace(curve, keys=side(curve.layer + 1), values=side(curve.layer + 1))
        for curve in with_kv(measurement).kv_curves
    )
    return replace(measurement, kv_curves=curves)


def test_a_manifest_of_our_runtime_names_codecs_and_seeds(measurement: Measurement) -> None:
    context = 60_000
    long = long_context(with_kv_sides(measurement), context)
    asked = request(device=CHIP, context=context, joint_kv=True, runtime="bitbudget")
    manifest = Manifest.build(long, plan_checkpoint(long.inventory), asked, allocate(long, asked))
    assert manifest.kv_cache is not None
    for layer, sides in manifest.kv_cache.items():
        assert set(sides) == {KvSide.KEYS, KvSide.VALUES}
        for side, choice in sides.items():
            if choice.rotated:
                assert (choice.width, choice.seed) == (32, rotation_seed(layer, side))
    assert any(c.rotated for sides in manifest.kv_cache.values() for c in sides.values())
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


@pytest.mark.parametrize("runtime", ["stock", "bitbudget"])
def test_heads_that_no_format_takes_are_named(measurement: Measurement, runtime: str) -> None:
    context = 256
    long = long_context(with_kv_sides(measurement), context)
    first, *others = long.inventory.architecture.cache
    narrow = replace(first, head_width=24, value_width=16, elements_per_token=40)
    architecture = replace(long.inventory.architecture, cache=(narrow, *others))
    odd = replace(long, inventory=replace(long.inventory, architecture=architecture))
    asked = request(device=CHIP, context=context, joint_kv=True, runtime=runtime)
    found = allocate(odd, asked)
    assert any("heads of 16 and 24 channels take no KV format" in note for note in found.notes)
    assert not any("no KV format" in note for note in allocate(long, asked).notes)
    assert found.kv_formats is not None
    assert all(f.is_own_type for f in found.kv_formats[first.layer].values())


def test_one_width_of_all_caches_is_stock_s(measurement: Measurement) -> None:
    with pytest.raises(InvalidRequestError, match="--joint-kv"):
        allocate(measurement, request(device=CHIP, context=256, kv_bits=8, runtime="bitbudget"))


def _try(measurement: Measurement, **values: object) -> Allocation | None:
    try:
        return allocate(measurement, request(**values))
    except InfeasibleBudgetError:
        return None


def test_a_given_width_says_what_its_cache_costs(measurement: Measurement) -> None:
    given = allocate(with_kv(measurement), request(device=CHIP, context=256, kv_bits=4))
    assert any("4-bit KV cache adds 0.03 nats" in note for note in given.notes)


def test_a_manifest_records_every_cache(measurement: Measurement) -> None:
    long = long_context(with_kv(measurement), 65_536)
    asked = request(device=CHIP, context=65_536, joint_kv=True)
    manifest = Manifest.build(long, plan_checkpoint(long.inventory), asked, allocate(long, asked))
    assert manifest.kv_cache is not None
    assert {layer: str(c[KvSide.BOTH].format) for layer, c in manifest.kv_cache.items()} == {
        0: "8g32",
        1: "16",
    }
    total = sum(choice.kl_nats for choice in manifest.modules.values())
    total += sum(c.kl_nats for sides in manifest.kv_cache.values() for c in sides.values())
    assert total == pytest.approx(manifest.certificate.predicted_kl_nats_per_token)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_a_speed_beyond_the_device_names_the_fastest(measurement: Measurement) -> None:
    asked = request(device=CHIP, context=256, min_tokens_per_second=1e9)
    with pytest.raises(InfeasibleBudgetError, match=r"tokens per second on this device") as refused:
        allocate(measurement, asked)
    found = str(refused.value).split("(")[1].split(" ")[0]
    assert 0 < float(found) < 1e9
    slower = request(device=CHIP, context=256, min_tokens_per_second=0.99 * float(found))
    assert allocate(measurement, slower).file_bytes > 0
