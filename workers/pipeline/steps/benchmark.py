"""Step benchmark: how fast a checkpoint is on this machine."""

from __future__ import annotations

from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.core.manifest import Manifest
from bitbudget.workers.benchmark import benchmark
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.pipeline.options import BenchmarkOptions
from bitbudget.workers.pipeline.run import Delivered, Run
from bitbudget.workers.running.stock import check_opens, stock_model

__all__ = ["run_step"]


def run_step(run: Run) -> Benchmark:
    """Return the report on the checkpoint: of a manifest's made once and announced."""
    options, manifest = run[BenchmarkOptions], run.find(Manifest)
    if manifest is None:
        return _benchmark(run, options)
    path = run.home.manifest(manifest.sha256) / "benchmark.json"
    if not path.is_file():
        write_whole(path, _benchmark(run, options).to_json())
    run.report.artifact(path)
    return Benchmark.model_validate_json(path.read_bytes())


def _benchmark(run: Run, options: BenchmarkOptions) -> Benchmark:
    delivered = run.find(Delivered)
    if delivered is None and options.checkpoint is not None:
        check_opens(options.checkpoint, stock_model)
    return Benchmark.model_validate(
        benchmark(
            options.checkpoint if delivered is None else delivered.folder,
            options.prompt_tokens,
            options.generate_tokens,
            kernels=options.kernels,
            most_seconds_on_cpu=options.most_seconds_on_cpu,
            progress=lambda done, total: run.report.progress(done, total, "tokens"),
        )
    )
