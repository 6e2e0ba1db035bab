"""KL of allocations by running them, each group alone and beside the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitbudget.app.core.formats import KEEP, parse_format
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.prediction.measured_kl import Trials
from tests.workers.models.tiny import write_tiny


def test_small_errors_add_up_from_both_ends_and_nothing_is_left_behind(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "llama"))
    inventory = build_inventory(checkpoint)
    trials = Trials(checkpoint, inventory, Encoder.CAREFUL, {}, seed=0)
    kept = {module.path: KEEP for module in inventory.modules}
    assert trials.kl(kept) == pytest.approx(0, abs=1e-6)
    few = dict.fromkeys(kept, parse_format("affine4g64"))
    fewer = dict.fromkeys(kept, parse_format("affine3g64"))
    probed = list(trials.probed([few, kept, fewer]))
    assert 0 < 2 * probed[0] < probed[2]
    assert probed[1] == pytest.approx(0, abs=1e-6)
    before = trials.kl(few)
    assert before == pytest.approx(probed[0], rel=0.2)
    told: list[tuple[int, int]] = []
    ends = trials.ends(few, lambda done, total: told.append((done, total)))
    groups = inventory.decision_groups()
    assert told[-1] == (2 * len(groups), 2 * len(groups))
    assert ends.alone.keys() == ends.beside.keys() == groups.keys()
    assert trials.kl(few) == pytest.approx(before, rel=1e-5)
    assert trials.kl(kept) == pytest.approx(0, abs=1e-6)
    middle = (sum(ends.alone.values()) + sum(ends.beside.values())) / 2
    assert middle == pytest.approx(ends.whole, rel=0.1)
    assert trials.kl(dict.fromkeys(kept, parse_format("affine2g64"))) > 4 * before


def test_allocations_are_tried_on_the_windows_that_are_given(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "llama"))
    inventory = build_inventory(checkpoint)
    place: Any = (checkpoint, inventory, Encoder.CAREFUL, {})
    few = {module.path: parse_format("affine4g64") for module in inventory.modules}
    ids = np.random.default_rng(0).integers(0, 128, (32, 256), np.int32)
    one, same, other = (
        next(Trials(*place, seed=0, windows=windows).probed([few]))
        for windows in (ids, ids.copy(), ids[::-1].copy())
    )
    assert one == same != other
