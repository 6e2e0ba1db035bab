"""What this machine is, found out without importing MLX."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from bitbudget.app.contract.leases import Capabilities
from bitbudget.app.contract.stored_speed import read_speed

__all__ = ["capabilities"]


def capabilities(home: Path, publishes_to: str = "") -> Capabilities:
    """Return chip, memory, backend and versions of this machine, and its speed if that is kept.

    `publishes_to` is the Hub namespace that its owner allows uploads to.
    """
    return Capabilities(
        chip=_chip()[:128],
        memory_bytes=psutil.virtual_memory().total,
        backend=_backend(),
        mlx_version=_version("mlx"),
        mlx_lm_version=_version("mlx-lm"),
        platform=platform.platform()[:128],
        speed=read_speed(home),
        publishes_to=publishes_to,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _backend() -> Literal["metal", "cpu", "cuda"]:
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "metal"
    return "cuda" if _version("mlx-cuda") else "cpu"


def _chip() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        return found.stdout.strip() or platform.machine()
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
