"""`bitbudget quantize`, `evaluate` and `benchmark`: make a checkpoint, check it, time it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.options import (
    OUTPUT_NAMES,
    AllowQuantizedSource,
    DiskLimit,
    Json,
    Model,
    Recover,
    RecoverSeconds,
    disk_limit_bytes,
)
from bitbudget.app.cli.output import say

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.contract.benchmarks import Benchmark, Kernels, KernelsMissing
    from bitbudget.app.contract.reports import Evaluation, Recovery

__all__ = ["benchmark", "evaluate", "print_evaluation", "print_recovery", "quantize"]

Folder = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint's folder.")]


def quantize(
    model: Model,
    *,
    manifest: Annotated[Path, typer.Option(help="The manifest to apply.")],
    output: Annotated[Path, typer.Option(*OUTPUT_NAMES, help="Folder to write.")],
    recover: Recover = "none",
    recover_seconds: RecoverSeconds = 300.0,
    disk_limit: DiskLimit = None,
    allow_quantized_source: AllowQuantizedSource = False,
    as_json: Json = False,
) -> None:
    """Write the checkpoint of a manifest; its bytes are exactly those promised."""
    from bitbudget.app.cli.child import home, run_with_progress
    from bitbudget.app.cli.manifest import load_manifest
    from bitbudget.app.cli.tables import exact
    from bitbudget.app.contract.reports import QuantizeResult
    from bitbudget.app.contract.tasks import QuantizeTask

    load_manifest(manifest)
    task = QuantizeTask.model_validate(
        {
            "home": home(),
            "model": model,
            "manifest": str(manifest.resolve()),
            "output": str(output.resolve()),
            "recover": recover,
            "recover_seconds": recover_seconds,
            "disk_limit_bytes": disk_limit_bytes(disk_limit),
            "allow_quantized_source": allow_quantized_source,
        }
    )
    result = run_with_progress(task, QuantizeResult, "quantize")

    def render(console: Console) -> None:
        console.print(f"checkpoint: {result.checkpoint}", soft_wrap=True)
        console.print(f"files:      {exact(result.file_bytes)}")
        print_recovery(console, result.recovery)
        console.print(f"try it:     mlx_lm.generate --model {output} --prompt 'Once'")

    say(result.model_dump(mode="json"), as_json=as_json, render=render)


def print_recovery(console: Console, found: Recovery | None) -> None:
    """Draw what training after quantization won, or that it won nothing."""
    if found is None:
        return
    kl = f"KL {found.before:.6f} -> {found.after:.6f} nats per token on rollouts"
    kept = "" if found.changed else "; nothing better found, the checkpoint is as it was"
    work = f"{found.steps} steps in {found.seconds:.0f} s"
    console.print(f"recovery:   {found.how.value}, {work}, {kl}{kept}")


def evaluate(
    checkpoint: Folder,
    *,
    reference: Annotated[
        str | None, typer.Option(help="The original: a folder or org/name.")
    ] = None,
    draft: Annotated[
        Path | None,
        typer.Option(help="A draft model's folder: what is it worth to this checkpoint?"),
    ] = None,
    verify_cost: Annotated[
        float,
        typer.Option(help="With --draft: time to verify drafted tokens, in tokens of its own."),
    ] = 1.0,
    activations: Annotated[
        str | None,
        typer.Option(help="What an engine's integers cost: int8:128, bits and channels."),
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Held-out text to score.")] = None,
    rollouts: Annotated[int, typer.Option(help="Sequences that the original writes.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of rollouts and bootstrap.")] = 0,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks of lm-evaluation-harness: mmlu_pro,arc_easy.")
    ] = None,
    task_folder: Annotated[Path | None, typer.Option(help="Folder of your own tasks.")] = None,
    task_limit: Annotated[int | None, typer.Option(help="Most questions of a task.")] = None,
    allow_quantized_source: AllowQuantizedSource = False,
    as_json: Json = False,
) -> None:
    """Compare a checkpoint with its original: KL, top-1 agreement, perplexity, noise floor.

    With --draft say what a draft model is worth to it in speculative decoding instead, with
    --activations what rounding what its modules read costs.
    """
    if draft is not None:
        from bitbudget.app.cli.drafting import evaluate_draft

        evaluate_draft(
            checkpoint,
            draft,
            {"text": text, "rollouts": rollouts, "seed": seed, "verify_cost": verify_cost},
            as_json=as_json,
        )
        return
    if activations is not None:
        from bitbudget.app.cli.activations import evaluate_activations

        where = {"checkpoint": checkpoint, "reference": _stated(reference), "text": text}
        how = {"activations": activations, "rollouts": rollouts, "seed": seed}
        more = {"allow_quantized_source": allow_quantized_source}
        evaluate_activations(where | how | more, as_json=as_json)
        return
    from bitbudget.app.cli.child import home, run_with_progress
    from bitbudget.app.contract.reports import Evaluation
    from bitbudget.app.contract.tasks import EvaluateTask

    task = EvaluateTask.model_validate(
        {
            "home": home(),
            "checkpoint": str(checkpoint.resolve()),
            "reference": _stated(reference),
            "text": None if text is None else str(text.resolve()),
            "rollouts": rollouts,
            "seed": seed,
            "allow_quantized_source": allow_quantized_source,
            "tasks": [name.strip() for name in tasks.split(",")] if tasks else [],
            "task_folder": None if task_folder is None else str(task_folder.resolve()),
            "task_limit": task_limit,
        }
    )
    result = run_with_progress(task, Evaluation, "evaluate")
    say(
        result.model_dump(mode="json"),
        as_json=as_json,
        render=lambda console: print_evaluation(console, result),
    )


def _stated(reference: str | None) -> str:
    from bitbudget.app.core.errors import InvalidRequestError

    if reference is None:
        raise InvalidRequestError(
            where="evaluate",
            found="no --reference",
            expected="the original, a folder or org/name; or --draft with a draft model",
            remedy="write for example --reference Qwen/Qwen3-8B",
        )
    return reference


def print_evaluation(console: Console, report: Evaluation) -> None:
    """Draw an evaluation report."""
    from bitbudget.app.cli.tables import facts

    low, high = report.kl_interval_95
    rows = {
        "KL": f"{report.kl_nats_per_token:.6f} nats per token (95 %: {low:.6f} to {high:.6f})",
        "top-1 agreement": f"{report.top1_agreement:.2%}",
        "perplexity ratio": f"{report.perplexity_ratio:.4f}",
        "noise floor": f"{report.noise_floor:.2e} nats per token",
        "tokens": f"{report.tokens:,}",
    }
    originals = report.reference_tasks or {}
    for task, scores in (report.tasks or {}).items():
        rows[task] = ", ".join(
            f"{name} {value:.4f} (original {originals.get(task, {}).get(name, 0.0):.4f})"
            for name, value in scores.items()
        )
    console.print(facts(rows))


def benchmark(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A checkpoint's folder; not needed with --kernels.")
    ] = None,
    *,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 512,
    generate_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 128,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Check and time the Metal kernels.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure decoding and prefill speed, time to first token and peak memory."""
    from bitbudget.app.cli.child import home, run_with_progress
    from bitbudget.app.contract.benchmarks import Benchmark
    from bitbudget.app.contract.tasks import BenchmarkTask
    from bitbudget.app.core.errors import InvalidRequestError

    if checkpoint is None and not kernels:
        raise InvalidRequestError(
            where="benchmark",
            found="no checkpoint",
            expected="a checkpoint's folder, or --kernels",
            remedy="name the folder that quantize or run wrote",
        )
    task = BenchmarkTask(
        home=home(),
        checkpoint=None if checkpoint is None else str(checkpoint.resolve()),
        prompt_tokens=prompt_tokens,
        generate_tokens=generate_tokens,
        kernels=kernels,
    )
    result = run_with_progress(task, Benchmark, "benchmark")
    say(
        result.model_dump(mode="json"),
        as_json=as_json,
        render=lambda console: _print_benchmark(console, result),
    )


def _print_benchmark(console: Console, report: Benchmark) -> None:
    from bitbudget.app.cli.tables import facts

    device = report.device
    shown = {"machine": f"{device.chip}, {device.system}"}
    shown |= {name.replace("_", " "): _number(value) for name, value in report.figures()}
    console.print(facts(shown))
    for reason in report.not_measured:
        console.print(f"not measured: {reason}", markup=False)
    if report.kernels is not None:
        _print_kernels(console, report.kernels)


def _print_kernels(console: Console, found: Kernels | KernelsMissing) -> None:
    from rich.table import Table

    if not found.available:
        console.print(f"kernels: {found.reason}")
        return
    table = Table(box=None, header_style="dim")
    for name in (
        "kernel",
        "agrees with its reference",
        "worst error",
        "microseconds",
        "stock",
        "order",
    ):
        table.add_column(name)
    for name, check in found.checks.items():
        timing = found.timings.get(name)
        table.add_row(
            name,
            "yes" if check.passed else f"NO: {check.detail}",
            "not finite" if check.worst_error is None else f"{check.worst_error:.1e}",
            "" if timing is None else f"{timing.ours_seconds * 1e6:.0f}",
            "" if timing is None else f"{timing.stock_seconds * 1e6:.0f}",
            "" if timing is None else timing.order or "",
        )
    console.print(table)


def _number(value: float) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value}"
