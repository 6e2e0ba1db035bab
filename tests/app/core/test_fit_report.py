from __future__ import annotations

from dataclasses import replace

from bitbudget.app.core.baselines import uniform_formats
from bitbudget.app.core.devices import device
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.fit_report import fit
from bitbudget.app.core.formats import Format, Mode
from bitbudget.app.core.inventory import Inventory, Module, ModuleKind
from bitbudget.app.core.layout import plan_checkpoint
from tests.support.speed import processor_limit


def test_sizes_are_those_of_the_finished_files(inventory: Inventory) -> None:
    report = fit(inventory, device("m4-pro-24gb"), 256)
    layout = plan_checkpoint(inventory)
    four = next(choice for choice in report.uniform if choice.name == "affine4g64")
    formats = uniform_formats(inventory, Format(Mode.AFFINE, 4, 64))
    assert four.file_bytes == layout.file_bytes(formats)
    assert report.smallest.file_bytes < four.file_bytes < report.now.file_bytes
    assert report.now.fits
    assert report.now.largest_context == inventory.architecture.max_context
    assert report.best_uniform is not None
    assert report.smallest.tokens_per_second > report.now.tokens_per_second > 0


def test_says_what_does_not_fit(inventory: Inventory) -> None:
    wide = Module(
        path="lm_head",
        kind=ModuleKind.LINEAR,
        shape=(2**17, 2**15),
        dtype=Dtype.BF16,
        decision_group="lm_head",
    )
    large = replace(inventory, modules=(*inventory.modules, wide))
    report = fit(large, device("m1-8gb"), 256)
    assert not report.now.fits
    assert report.now.largest_context == 0
    assert report.smallest.fits
    assert report.best_uniform is not None
    assert report.best_uniform.file_bytes <= report.weights_limit_bytes


def test_a_large_index_takes_less_than_a_second(inventory: Inventory) -> None:
    base = inventory.modules[1]
    modules = tuple(
        replace(base, path=f"model.layers.{i}.mlp.up_proj", decision_group=str(i))
        for i in range(600)
    )
    with processor_limit(1.0):
        fit(replace(inventory, modules=modules), device("m4-pro-24gb"), 128)
