from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import bitbudget
from bitbudget.app.cli.main import main

BUDGET = "4MB"


class _Bar:
    """Records what a tqdm bar would show."""

    made: list[_Bar]

    def __init__(self, *, total: int, unit: str) -> None:
        self.total, self.unit, self.percent, self.is_closed = total, unit, 0.0, False
        self.steps: list[str] = []

    def update(self, n: float = 1) -> None:
        self.percent += n

    def set_description(self, desc: str) -> None:
        self.steps.append(desc)

    def close(self) -> None:
        self.is_closed = True


def test_the_answer_is_that_of_the_command_line_and_is_made_and_evaluated(
    sample_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITBUDGET_HOME", str(tmp_path / "home"))
    bars: list[_Bar] = []

    def progress(**how: object) -> _Bar:
        bars.append(_Bar(total=int(str(how["total"])), unit=str(how["unit"])))
        return bars[-1]

    found = bitbudget.measure(
        sample_model, effort="quick", sensitivity="weights", progress=progress
    )
    assert (bars[0].percent, bars[0].is_closed) == (100, True)
    assert "measure" in bars[0].steps
    answer = found.allocate(BUDGET)
    file = tmp_path / "cli.json"
    how = ["--effort", "quick", "--sensitivity", "weights", "--budget", BUDGET, "-o", str(file)]
    with pytest.raises(SystemExit):
        main(["allocate", str(sample_model), *how])
    assert answer.manifest.to_bytes() == file.read_bytes()

    assert found.frontier().smallest_bytes <= answer.manifest.file_bytes <= 4_000_000
    assert [trace.name for trace in found.plot().data] == [
        "best possible",
        "uniform",
        "mixed recipes",
    ]
    made = found.quantize(answer, tmp_path / "out")
    assert made.manifest.file_bytes == answer.manifest.file_bytes
    assert made.evaluate(rollouts=2).kl_nats_per_token > 0
    for shown in (found, answer, made):
        assert shown._repr_html_().startswith("<table>")

    with pytest.raises(bitbudget.BitbudgetError, match="smallest"):
        found.allocate("1kB")
    with pytest.raises(bitbudget.BitbudgetError, match="kv_bits"):
        found.allocate(BUDGET, kv_bits=5)


def test_what_cannot_be_measured_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(bitbudget.BitbudgetError, match="effort"):
        bitbudget.measure(tmp_path, effort="endless")


def test_importing_bitbudget_imports_nothing_heavy() -> None:
    code = "import bitbudget, sys; print({'numpy', 'pydantic', 'mlx'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
