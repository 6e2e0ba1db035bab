"""How long a job will take on a machine, for every effort, before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from bitbudget.app.contract.durations import Work
from bitbudget.app.contract.steps import possible_steps
from bitbudget.app.core.effort import EFFORTS, Effort
from bitbudget.app.core.machine_speed import MachineSpeed
from bitbudget.app.core.requests import Deliver, JobRequest

__all__ = ["EffortTime", "effort_seconds", "effort_times", "job_seconds"]


class EffortTime(BaseModel):
    """How long an effort takes until there is a manifest, and until there is a checkpoint."""

    model_config = ConfigDict(frozen=True)

    effort: Effort
    manifest_seconds: float
    checkpoint_seconds: float


def effort_times(weights: int, speed: MachineSpeed) -> tuple[EffortTime, ...]:
    """Return how long each effort takes for a model with so many weights that is on the disk."""
    manifest, checkpoint = (effort_seconds(weights, speed, deliver) for deliver in Deliver)
    return tuple(
        EffortTime(
            effort=effort,
            manifest_seconds=round(manifest[effort], 1),
            checkpoint_seconds=round(checkpoint[effort], 1),
        )
        for effort in manifest
    )


def job_seconds(request: JobRequest, work: Work) -> float:
    """Return how long the steps of a request take in all."""
    return sum(step.seconds(work) for step in possible_steps(request))


def effort_seconds(
    weights: int, speed: MachineSpeed, deliver: Deliver = Deliver.MANIFEST
) -> Mapping[Effort, float]:
    """Return how long each effort takes for a model with so many weights that is on the disk."""
    found = {}
    for effort, plan in EFFORTS.items():
        request = JobRequest(model="-", min_safe=True, deliver=deliver, effort=effort)
        work = replace(
            Work(weights, speed=speed),
            effort=effort,
            encoder=plan.encoder,
            recover_seconds=request.recover_seconds,
        )
        found[effort] = job_seconds(request, work)
    return found
