"""What is read of a folder and of the Hub before a table of names is asked."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from bitbudget.app.core.errors import AlreadyQuantizedError, BitbudgetError, ModelClassNeededError
from bitbudget.app.core.hub_id import HubId
from bitbudget.workers.hub import client
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.outline.inventory import named_inventory
from bitbudget.workers.outline.source import read_source
from tests.workers.hub.hub_server import HubServer
from tests.workers.models.tiny import stored_weights, write_folder, write_tiny


def test_the_hub_tells_the_same_as_a_folder(
    sample_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer() as hub:
        hub.repository("org/tiny").put_folder(sample_model)
        monkeypatch.setattr(client, "Hub", partial(client.Hub, hub.endpoint))
        found = read_source(HubId.parse("org/tiny"))
    here = read_source(sample_model)
    assert named_inventory(found.config, found.tensors) == named_inventory(
        here.config, here.tensors
    )
    assert (found.name, here.name) == ("org/tiny", sample_model.name)


def test_packed_weights_are_refused_or_left_to_mlx(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "plain", "qwen2")
    packed = stored_weights(folder)
    packed["model.layers.0.mlp.up_proj.qweight"] = packed.pop("model.layers.0.mlp.up_proj.weight")
    write_folder(folder, read_source(folder).config, packed)
    with pytest.raises(AlreadyQuantizedError):
        read_source(folder)
    with pytest.raises(ModelClassNeededError, match=r"packed.*\[worker\]"):
        read_source(folder, allow_quantized=True)


@pytest.mark.parametrize("equal", [True, False])
def test_a_stored_head_is_dropped_or_kept_as_by_the_class(equal: bool, tmp_path: Path) -> None:  # noqa: FBT001
    folder = write_tiny(tmp_path / "tied", "qwen2")
    weights = stored_weights(folder)
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding if equal else embedding + 1
    write_folder(folder, read_source(folder).config, weights)
    source = read_source(folder)
    by_names = named_inventory(source.config, source.tensors)
    assert by_names == build_inventory(open_checkpoint(folder))
    assert by_names.modules[0].is_tied_head is equal
    assert any("lm_head" in note for note in source.notes) is not equal


def test_a_head_that_the_class_has_no_place_for_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "gemma", "gemma")
    weights = stored_weights(folder)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    write_folder(folder, read_source(folder).config, weights)
    for read in (read_source, lambda path: build_inventory(open_checkpoint(path))):
        with pytest.raises(BitbudgetError, match="another model"):
            read(folder)
