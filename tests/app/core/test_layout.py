from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.layout import Shard, module_bytes, plan_checkpoint


def _write(shard: Shard, folder: Path) -> Path:
    path = folder / shard.filename
    with path.open("wb") as file:
        file.write(shard.header)
        for array in shard.arrays:
            assert file.tell() == shard.offsets[array.name]
            file.write(bytes(array.nbytes))
    return path


def _choices(inventory: Inventory, picks: list[int]) -> dict[str, Format]:
    legal = [module.legal_formats() for module in inventory.modules]
    return {
        module.path: formats[pick % len(formats)]
        for module, formats, pick in zip(inventory.modules, legal, picks, strict=True)
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    picks=st.lists(st.integers(0, 21), min_size=4, max_size=4),
    max_shard_bytes=st.sampled_from([1, 20_000, 200_000, 10**9]),
)
def test_planned_bytes_are_the_bytes_of_real_files(
    inventory: Inventory,
    tmp_path_factory: pytest.TempPathFactory,
    picks: list[int],
    max_shard_bytes: int,
) -> None:
    folder = tmp_path_factory.mktemp("layout")
    layout = plan_checkpoint(inventory, max_shard_bytes)
    formats = _choices(inventory, picks)
    paths = [_write(shard, folder) for shard in layout.files(formats)]
    assert sum(path.stat().st_size for path in paths) == layout.file_bytes(formats)


def test_other_readers_accept_the_padded_header(inventory: Inventory, tmp_path: Path) -> None:
    layout = plan_checkpoint(inventory)
    formats = _choices(inventory, [4, 7, 0, 19])
    (shard,) = layout.files(formats)
    with safe_open(_write(shard, tmp_path), framework="numpy") as file:
        assert file.metadata() == {"format": "mlx"}
        assert set(file.keys()) == {array.name for array in shard.arrays}
        assert file.get_tensor("model.embed_tokens.weight").dtype == np.uint32


def test_every_array_is_aligned_to_its_elements(inventory: Inventory) -> None:
    layout = plan_checkpoint(inventory)
    (shard,) = layout.files(_choices(inventory, [0, 0, 0, 0]))
    assert all(shard.offsets[a.name] % a.dtype.itemsize == 0 for a in shard.arrays)


def test_a_choice_moves_no_module_to_another_file(inventory: Inventory) -> None:
    layout = plan_checkpoint(inventory, max_shard_bytes=20_000)
    small, large = (layout.files(_choices(inventory, [pick] * 4)) for pick in (0, -1))
    names = [[{n.rsplit(".", 1)[0] for n in s.offsets} for s in files] for files in (small, large)]
    assert names[0] == names[1]
    assert len(small) > 1


def test_headers_are_json_padded_with_spaces(inventory: Inventory) -> None:
    (shard,) = plan_checkpoint(inventory).files(_choices(inventory, [1, 2, 3, 4]))
    length = int.from_bytes(shard.header[:8], "little")
    assert length == len(shard.header) - 8
    assert length % 8 == 0
    assert json.loads(shard.header[8:])["__metadata__"] == {"format": "mlx"}


def test_keeping_a_module_costs_its_source_and_one_header_entry(inventory: Inventory) -> None:
    module = inventory.modules[1]
    assert 0 < module_bytes(module, KEEP) - 128 * 128 * 2 < 256
