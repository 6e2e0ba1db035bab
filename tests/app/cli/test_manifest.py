from __future__ import annotations

import json
from pathlib import Path

from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from tests.app.cli.conftest import Run, build_manifest


def test_show_names_the_digest_and_every_module(bitbudget: Run, manifest_file: Path) -> None:
    manifest = Manifest.from_bytes(manifest_file.read_bytes())
    document = bitbudget("manifest", "show", manifest_file, "--json").document
    assert document["sha256"] == manifest.sha256
    assert document["modules"].keys() == manifest.modules.keys()
    drawn = bitbudget("manifest", "show", manifest_file)
    assert manifest.sha256 in drawn.out
    assert "4g64" in drawn.out


def test_verify_accepts_its_own_bytes(bitbudget: Run, manifest_file: Path) -> None:
    answer = bitbudget("manifest", "verify", manifest_file, "--json")
    assert answer.code == 0
    assert all(check["holds"] for check in answer.document["checks"])


def test_verify_refuses_bytes_that_are_not_canonical(bitbudget: Run, manifest_file: Path) -> None:
    manifest_file.write_text(json.dumps(json.loads(manifest_file.read_bytes()), indent=1))
    answer = bitbudget("manifest", "verify", manifest_file, "--json")
    assert answer.code == 1
    assert "canonical bytes" in answer.document["detail"]


def test_verify_refuses_a_budget_that_is_exceeded(bitbudget: Run, manifest_file: Path) -> None:
    manifest = Manifest.from_bytes(manifest_file.read_bytes())
    over = manifest.model_copy(update={"budget_bytes": manifest.file_bytes - 1})
    manifest_file.write_bytes(over.to_bytes())
    answer = bitbudget("manifest", "verify", manifest_file)
    assert answer.code == 1
    assert "within the budget" in answer.err


def test_diff_lists_only_what_changed(
    bitbudget: Run, manifest_file: Path, measurement: Measurement, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(build_manifest(measurement, "affine6g64").to_bytes())
    document = bitbudget("manifest", "diff", manifest_file, other, "--json").document
    assert "model.layers.0.mlp.down_proj" not in document["modules"]  # kept in both
    change = document["modules"]["model.embed_tokens"]
    assert change["formats"] == ["affine4g64", "affine6g64"]
    assert change["bytes"] > 0 > change["kl_nats"]
    same = bitbudget("manifest", "diff", manifest_file, manifest_file, "--json").document
    assert same["same"]
    assert same["modules"] == {}


def test_apply_prints_python_that_compiles(bitbudget: Run, manifest_file: Path) -> None:
    printed = bitbudget("manifest", "apply", manifest_file, "-o", "out").out
    compile(printed, "recipe", "exec")
    assert f"MANIFEST, MODEL, OUT = {str(manifest_file)!r}" in printed


def test_a_file_that_is_no_manifest_is_a_clear_error(bitbudget: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("{}")
    answer = bitbudget("manifest", "show", file, "--json")
    assert answer.code == 2
    assert str(file) in answer.document["detail"]
    assert "Traceback" not in answer.err
    missing = bitbudget("manifest", "show", tmp_path / "no.json", "--json")
    assert missing.code == 1
    assert "No such file" in missing.document["detail"]


def test_export_tells_what_the_target_lacks(
    bitbudget: Run, manifest_file: Path, measurement_file: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "layers.json"
    arguments = ("manifest", "export", manifest_file, "--model", measurement_file)
    found = bitbudget(*arguments, "--for", "auto-round", "-o", recipe, "--json").document
    assert json.loads(recipe.read_text()) == json.loads(found["recipe"])
    assert any("auto-round stores keep" in note for note in found["notes"])
    drawn = bitbudget(*arguments, "--for", "mlx-lm")
    assert json.loads(drawn.out)["model.embed_tokens"]["bits"] == 4
    assert "use: mlx_lm.convert(" in drawn.err
    other = bitbudget(*arguments, "--for", "llama.cpp", "--model", tmp_path / "none.json")
    assert other.code != 0
