"""The task of `bitbudget measure`.

It imports what it needs and no more: measuring by weights alone takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.home import Home
from bitbudget.workers.pipeline.measuring.survey import survey
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.steps.fetch import Source, fetch
from bitbudget.workers.pipeline.steps.inventory import take_inventory
from bitbudget.workers.pipeline.steps.measure import measure, measurement_path

__all__ = ["run_measure"]


def run_measure(task: MeasureTask, emit: Callable[[Event], None]) -> dict[str, Any]:
    """Measure a model, or find its stored measurement; return where that is."""
    reporter, home = Reporter(emit), Home(Path(task.home))
    options = MeasureOptions.of_task(task)
    checkpoint = fetch(
        task.model,
        home,
        reporter,
        disk_limit_bytes=task.disk_limit_bytes,
        whole=options.needs_whole_model,
        identify=options.needs_whole_model,
        source=Source(task.name, task.allow_quantized_source),
    )
    paths = {}
    for rotation, twin in _twins(checkpoint, options, home, reporter).items():
        chosen = replace(options, rotation=rotation)
        look = partial(survey, twin, options=chosen, home=home, reporter=reporter)
        asked = None if task.allow_quantized_source else task.budget
        inventory = take_inventory(twin, home, reporter, budget=asked, survey=look)
        measurement = measure(twin, inventory, chosen, home, reporter)
        paths[rotation.value] = str(measurement_path(twin, chosen, home))
    identity = checkpoint.identity(home.digests)
    return {
        "measurement": paths[rotation.value],
        "measurements": paths,
        "key": measurement.key,
        "model": {
            "name": identity.name,
            "revision": identity.revision,
            "digest": identity.digest,
        },
        "modules": len(measurement.curves),
        "tokens": measurement.tokens,
        "warnings": list(measurement.warnings),
    }


def _twins(
    checkpoint: Checkpoint, options: MeasureOptions, home: Home, reporter: Reporter
) -> dict[Rotation, Checkpoint]:
    if options.rotation is Rotation.NONE:
        return {Rotation.NONE: checkpoint}
    from bitbudget.workers.pipeline.steps.rotate import candidates  # noqa: PLC0415, imports the whole of mlx-lm

    return candidates(checkpoint, options.rotation, home, reporter)
