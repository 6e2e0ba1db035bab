from __future__ import annotations

from dataclasses import replace

import pytest

from bitbudget.app.core.devices import device
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.inventory import CacheKind, CacheLayer, Inventory
from bitbudget.app.core.memory import (
    cache_layer_bytes,
    kv_cache_bytes,
    largest_context,
    plan_memory,
)

FULL = CacheLayer(0, CacheKind.FULL, elements_per_token=2 * 8 * 128, head_width=128)


def test_full_attention_counts_keys_and_values() -> None:
    assert cache_layer_bytes(FULL, 8192, 16) == 8192 * 2048 * 2
    assert cache_layer_bytes(FULL, 8192, 8) == 8192 * 2048 + 8192 * 2048 // 64 * 4
    assert cache_layer_bytes(FULL, 8192, 4) == 8192 * 1024 + 8192 * 2048 // 64 * 4


def test_caches_grow_in_steps() -> None:
    assert cache_layer_bytes(FULL, 1, 16) == 256 * 2048 * 2
    assert cache_layer_bytes(FULL, 257, 16) == 512 * 2048 * 2


def test_windows_bound_and_are_not_quantized() -> None:
    sliding = replace(FULL, kind=CacheKind.SLIDING, window=1024)
    assert cache_layer_bytes(sliding, 8192, 4) == 1024 * 2048 * 2
    assert cache_layer_bytes(sliding, 512, 16) == 512 * 2048 * 2


def test_states_do_not_grow() -> None:
    state = CacheLayer(0, CacheKind.STATE, constant_bytes=12_345)
    assert cache_layer_bytes(state, 1, 16) == cache_layer_bytes(state, 10**6, 4) == 12_345


def test_parts_add_up_and_the_largest_context_is_the_last_that_fits(
    inventory: Inventory,
) -> None:
    architecture = replace(inventory.architecture, max_context=1_000_000)
    long = replace(inventory, architecture=architecture)
    chip = device("m1-8gb")
    plan = plan_memory(long, chip, 8192, 16)
    parts = plan.kv_cache_bytes + plan.prefill_bytes + plan.reserve_bytes
    assert plan.weights_limit_bytes + parts == plan.usable_bytes == chip.working_set_bytes * 9 // 10
    assert plan.kv_cache_bytes == kv_cache_bytes(architecture, 8192, 16, 2)
    weights = plan_memory(long, chip, 500_000, 16).weights_limit_bytes
    most = largest_context(long, chip, weights, 16)
    assert 500_000 <= most < 501_000
    assert weights <= plan_memory(long, chip, most, 16).weights_limit_bytes
    assert weights > plan_memory(long, chip, most + 1, 16).weights_limit_bytes
    assert largest_context(long, chip, chip.working_set_bytes, 16) == 0
    unfused = plan_memory(long, chip, 8192, 8)
    assert unfused.kv_cache_bytes < plan.kv_cache_bytes
    assert unfused.prefill_bytes == plan.prefill_bytes + 2048 * 8192 * (4 * 2 + 1)


def test_impossible_requests_are_named(inventory: Inventory) -> None:
    chip = device("m1-8gb")
    with pytest.raises(InvalidRequestError, match="1 to 256"):
        plan_memory(inventory, chip, 257, 16)
    with pytest.raises(InvalidRequestError, match="16, 8 or 4"):
        plan_memory(inventory, chip, 256, 5)
