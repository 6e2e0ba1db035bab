"""A measurement, its answers and their checkpoints, as a notebook holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bitbudget.app.cli.allocate import write_manifest
from bitbudget.app.cli.child import home
from bitbudget.app.cli.frontier import figure
from bitbudget.app.cli.measure import measure_task, read_measurement
from bitbudget.app.cli.tables import exact
from bitbudget.app.contract.reports import Evaluation, MeasureResult, QuantizeResult
from bitbudget.app.contract.tasks import EvaluateTask, MeasureTask, QuantizeTask
from bitbudget.app.core.frontier import Frontier, frontier
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement as Curves
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.solving import best_manifest
from bitbudget.app.notebook.running import Progress, html_table, one_error_tree, run

__all__ = ["Answer", "Checkpoint", "Measurement", "measure"]


def measure(
    model: str | Path,
    *,
    effort: str | None = None,
    progress: Progress | None = None,
    **conditions: Any,
) -> Measurement:
    """Measure a model, or find its stored measurement, as `bitbudget measure` does.

    `conditions` are fields of a MeasureTask: encoder, sensitivity, rotation, text, seed,
    max_minutes, formats, runtime, name, allow_quantized_source, disk_limit_bytes.
    """
    stated = {"effort": effort, **conditions}
    given = {name: value for name, value in stated.items() if value is not None}
    if "text" in given:
        given["text"] = str(Path(given["text"]).resolve())
    with one_error_tree():
        task = measure_task(str(model), given)
    made = run(task, MeasureResult, "measure", progress)
    curves = tuple(read_measurement(Path(path)) for path in made.measurements.values())
    return Measurement(task, curves, made.warnings)


@dataclass(frozen=True, repr=False)
class Measurement:
    """The curves of a model; with `rotation="auto"` as it is and rotated, the default first."""

    task: MeasureTask
    curves: tuple[Curves, ...]
    notes: tuple[str, ...] = ()

    def allocate(self, budget: str | int | None = None, **conditions: Any) -> Answer:
        """Return the best choice of formats, without measuring anything.

        `conditions` are the other fields of an AllocationRequest: device, context, pins, floors.
        InfeasibleBudgetError names the smallest feasible size.
        """
        with one_error_tree():
            request = AllocationRequest.model_validate({"budget": budget, **conditions})
        return Answer(best_manifest(self.curves, request))

    def frontier(self) -> Frontier:
        """Return every best trade of bytes against predicted KL, and where recipes lie."""
        return frontier(self.curves[0])

    def plot(self) -> Any:
        """Return the frontier as a plotly figure, the one of `bitbudget frontier --plot`."""
        curves = self.curves[0]
        return figure(self.frontier(), curves.model.name, curves.objective)

    def quantize(
        self,
        budget: str | int | Answer,
        out: str | Path,
        *,
        progress: Progress | None = None,
        **conditions: Any,
    ) -> Checkpoint:
        """Write the checkpoint of an answer, or of the answer to a budget, to the folder `out`.

        `conditions` are `recover` and `recover_seconds`.
        """
        answer = budget if isinstance(budget, Answer) else self.allocate(budget)
        source = {"model", "home", "name", "allow_quantized_source", "disk_limit_bytes"}
        with TemporaryDirectory() as folder:
            file = answer.save(Path(folder, "manifest.json"))
            given = {"manifest": str(file), "output": str(Path(out).resolve()), **conditions}
            with one_error_tree():
                task = QuantizeTask.model_validate(self.task.model_dump(include=source) | given)
            result = run(task, QuantizeResult, "quantize", progress)
        asked = self.task
        return Checkpoint(Path(result.checkpoint), asked.model, asked.allow_quantized_source)

    def __repr__(self) -> str:
        curves = self.curves[0]
        return f"<Measurement of {curves.model.name}: {len(curves.curves)} modules>"

    def _repr_html_(self) -> str:
        curves = self.curves[0]
        rows = {
            "model": curves.model.name,
            "modules": f"{len(curves.curves):,}, {curves.inventory.weights:,} weights",
            "effort": curves.effort.value,
            "encoder": curves.encoder.value,
            "sensitivity": curves.sensitivity.value,
        }
        return html_table(rows | {"note": "; ".join(self.notes)} if self.notes else rows)


@dataclass(frozen=True, repr=False)
class Answer:
    """The best choice of formats within a budget; its manifest is that of `bitbudget allocate`."""

    manifest: Manifest

    def save(self, file: str | Path) -> Path:
        """Write the manifest, the same bytes as `bitbudget allocate -o`, and return its path."""
        write_manifest(Path(file), self.manifest)
        return Path(file)

    def __repr__(self) -> str:
        found = self.manifest
        return f"<Answer: {found.file_bytes:,} of {found.budget_bytes:,} bytes>"

    def _repr_html_(self) -> str:
        found, objective = self.manifest, self.manifest.objective
        rows = {
            "files": exact(found.file_bytes),
            "budget": exact(found.budget_bytes),
            "bits per weight": f"{found.bits_per_weight:.3f}",
            objective.axis: f"{found.certificate.predicted_kl_nats_per_token:.6f}",
            "no allocation is below": f"{found.certificate.bound:.6f}",
        }
        return html_table(rows)


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A quantized checkpoint's folder and the original that it is compared with."""

    folder: Path
    reference: str
    allow_quantized_source: bool = False

    @property
    def manifest(self) -> Manifest:
        """The manifest in the folder."""
        file = self.folder / "manifest.json"
        return Manifest.from_bytes(file.read_bytes(), str(file))

    def evaluate(self, *, progress: Progress | None = None, **conditions: Any) -> Evaluation:
        """Compare it with the original, as `bitbudget evaluate` does: KL, top-1 agreement, ...

        `conditions` are the other fields of an EvaluateTask: text, rollouts, seed, tasks.
        """
        given = dict(conditions)
        if given.get("text") is not None:
            given["text"] = str(Path(given["text"]).resolve())
        about = {
            "home": home(),
            "checkpoint": str(self.folder.resolve()),
            "reference": self.reference,
            "allow_quantized_source": self.allow_quantized_source,
        }
        with one_error_tree():
            task = EvaluateTask.model_validate(about | given)
        return run(task, Evaluation, "evaluate", progress)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.folder} of {self.reference}>"

    def _repr_html_(self) -> str:
        found = self.manifest
        rows = {
            "checkpoint": self.folder,
            "original": self.reference,
            "files": exact(found.file_bytes),
            "bits per weight": f"{found.bits_per_weight:.3f}",
        }
        return html_table(rows)
