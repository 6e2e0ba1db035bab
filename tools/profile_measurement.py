"""Say where the time of a measurement goes, per step and per function: `make profile`.

Measures the sample model (or `--model`) in this process and in a fresh home, so that nothing is
found already measured. The first table adds up the time before each event under the step that the
event is of; the tree below it samples the main thread's stack (pyinstrument, every 5 ms).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict

from pyinstrument import Profiler

from bitbudget.app.contract.events import Event, Failed, Finished
from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.samples import sample_model
from bitbudget.workers.pipeline.tasks import run_task

_INTERVAL_SECONDS = 0.005
_LEAST_SHARE_PERCENT = 2


class StepClock:
    """Adds up the seconds before each event, by the step of the event."""

    def __init__(self) -> None:
        self._before = time.perf_counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __call__(self, event: Event) -> None:
        """Take one event."""
        now = time.perf_counter()
        step = None if isinstance(event, (Finished, Failed)) else event.step
        name = event.kind if step is None else step.value
        self.seconds[name] += now - self._before
        self._before = now


def main() -> None:
    """Measure once under the profiler and print both tables."""
    parser = argparse.ArgumentParser(description="Profile one measurement.")
    parser.add_argument("--model", default=str(sample_model()))
    model = parser.parse_args().model
    clock = StepClock()
    profiler = Profiler(interval=_INTERVAL_SECONDS)
    with tempfile.TemporaryDirectory(prefix="bitbudget-profile-") as home, profiler:
        run_task(MeasureTask(home=home, model=model), clock)
    total = sum(clock.seconds.values())
    for step, seconds in clock.seconds.items():
        print(f"{step:12} {seconds:8.2f} s {100 * seconds / total:5.1f} %")
    options = {"filter_threshold": _LEAST_SHARE_PERCENT / 100}
    print(profiler.output_text(unicode=True, show_all=False, processor_options=options))


if __name__ == "__main__":
    main()
