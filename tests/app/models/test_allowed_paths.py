from __future__ import annotations

from pathlib import Path

import pytest

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.models.allowed_paths import ModelGate


def test_folders_must_lie_in_a_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "models", tmp_path / "outside"
    (root / "good").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    gate = ModelGate((root,))
    gate.check("org/name@main")
    gate.check(str(root / "good"))
    for refused in ("/etc", str(root / ".." / "outside"), str(root / "link"), "~", "../x"):
        with pytest.raises(InvalidRequestError, match="BITBUDGET_MODEL_ROOTS"):
            gate.check(refused)
    with pytest.raises(InvalidRequestError):
        ModelGate(()).check(str(root / "good"))
    ModelGate(None).check("/etc")
