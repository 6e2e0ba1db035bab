"""The emulator compiles the very source that MLX generates for a Mac."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from bitbudget.metal_kernels import KERNELS, Kernel
from bitbudget.metal_kernels.launch import Launch
from tests.metal_emulator.signature import generate


def mlx_source(launch: Launch, folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    source = launch.source
    kernel: Any = mx.fast.metal_kernel(
        name=source.name,
        input_names=list(source.inputs),
        output_names=list(source.outputs),
        source=source.body_text(),
        header=source.header_text(),
    )

    def call(*inputs: mx.array) -> list[mx.array]:
        return list(
            kernel(
                inputs=list(inputs),
                template=list(launch.template),
                grid=launch.grid,
                threadgroup=launch.threadgroup,
                output_shapes=list(launch.output_shapes),
                output_dtypes=list(launch.output_dtypes),
                verbose=True,
            )
        )

    mx.export_function(str(folder / "kernel.mlxfn"), call, *launch.inputs)
    printed = re.search(r"```\n(.*)\n```", capfd.readouterr().out, re.DOTALL)
    assert printed is not None
    return printed[1]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_the_generated_source_is_what_mlx_prints(
    kernel: Kernel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for case in kernel.cases():
        launch = kernel.launch(*case.arguments, **case.options)
        printed = mlx_source(launch, tmp_path, capfd)
        assert generate(launch).text.rstrip() == printed.rstrip()
