"""Metal kernels, their launchers and their references in MLX operations."""

from bitbudget.metal_kernels.kernel import Kernel, SelfTest, metal_available, self_test
from bitbudget.metal_kernels.own_matmul import own_qmm, own_qmv
from bitbudget.metal_kernels.prefill import own_order, rht_order
from bitbudget.metal_kernels.products import Order
from bitbudget.metal_kernels.rd_sweep import rd_sweep
from bitbudget.metal_kernels.rht32 import rht32
from bitbudget.metal_kernels.rht_matmul import rht_qmm, rht_qmv
from bitbudget.metal_kernels.rms_norm_rht import residual_rms_norm_rht, rms_norm_rht
from bitbudget.metal_kernels.swiglu_rht import swiglu_rht
from bitbudget.metal_kernels.turbo_attend import turbo_attend

__all__ = [
    "KERNELS",
    "Kernel",
    "Order",
    "SelfTest",
    "metal_available",
    "own_order",
    "own_qmm",
    "own_qmv",
    "rd_sweep",
    "residual_rms_norm_rht",
    "rht32",
    "rht_order",
    "rht_qmm",
    "rht_qmv",
    "rms_norm_rht",
    "self_test",
    "swiglu_rht",
    "turbo_attend",
]

KERNELS = (
    rht32,
    rms_norm_rht,
    residual_rms_norm_rht,
    swiglu_rht,
    rht_qmv,
    rht_qmm,
    own_qmv,
    own_qmm,
    rd_sweep,
    turbo_attend,
)
"""Every kernel of the package."""
