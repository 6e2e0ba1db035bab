from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from bitbudget.workers.native import build as build_module
from bitbudget.workers.native.build import NativeBuildError, Target, build, library_path, targets
from bitbudget.workers.native.loader import kernels, library, supported_variants


def test_every_library_of_this_machine_builds() -> None:
    built = build()
    assert len(built) == len(targets())
    assert all(path.stat().st_size > 0 for path in built)


def test_apple_silicon_compiles_here_too() -> None:
    """The one source must compile for a machine that tests here never run on."""
    (target,) = targets("darwin", "arm64")
    (path,) = build((target,))
    try:
        assert path.read_bytes()[:4] == b"\xcf\xfa\xed\xfe"  # Mach-O, 64 bits
    finally:
        path.unlink()


def test_linux_on_arm_compiles_here_too() -> None:
    for target in targets("linux", "aarch64"):
        (path,) = build((target,))
        try:
            assert path.read_bytes()[18] == 183  # EM_AARCH64
        finally:
            path.unlink()


def test_unknown_systems_have_no_target() -> None:
    assert targets("win32", "AMD64") == ()
    assert targets("linux", "riscv64") == ()


def test_the_name_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "FOLDER", tmp_path)
    target = targets("linux", "x86_64")[0]
    (tmp_path / "kernels.cpp").write_text("int a;")
    first = library_path(target)
    (tmp_path / "kernels.cpp").write_text("int b;")
    assert library_path(target) != first


def test_a_failing_compilation_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "FOLDER", tmp_path)
    (tmp_path / "broken.cpp").write_text("this is not C++")
    target = Target("broken", "broken.cpp", "x86_64-linux-gnu", "x86_64_v3")
    with pytest.raises(NativeBuildError, match=r"python -m bitbudget\.workers\.native\.build"):
        build((target,))
    assert not list(tmp_path.glob("*.partial"))


def test_every_variant_of_this_processor_loads() -> None:
    variants = supported_variants()
    assert variants
    for variant in variants:
        assert isinstance(kernels(variant), ctypes.CDLL)


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(NativeBuildError, match="no library nonsense"):
        library("nonsense")
