"""How long a job will take on a machine, for every effort, before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitbudget.app.contract.durations import Work
from bitbudget.app.contract.steps import possible_steps
from bitbudget.app.core.effort import EFFORTS, Effort
from bitbudget.app.core.machine_speed import MachineSpeed
from bitbudget.app.core.requests import Deliver, JobRequest

__all__ = ["effort_seconds", "job_seconds"]


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
