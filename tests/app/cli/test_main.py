from __future__ import annotations

import subprocess
import sys

from tests.app.cli.conftest import Run


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from bitbudget.app.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'ortools', 'fastapi', 'mlx', 'httpx2'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_an_unknown_option_is_wrong_usage_also_as_json(bitbudget: Run) -> None:
    assert bitbudget("allocate", "x", "--bugdet", "1").code == 2
    answer = bitbudget("allocate", "x", "--bugdet", "1", "--json")
    assert answer.code == 2
    assert "--bugdet" in answer.document["detail"]


def test_no_budget_is_told_before_any_work(bitbudget: Run) -> None:
    answer = bitbudget("allocate", "/nowhere", "--json")
    assert answer.code == 2
    assert "budget" in answer.document["detail"]


def test_a_malformed_size_or_pin_is_wrong_usage(bitbudget: Run) -> None:
    size = bitbudget("allocate", "/nowhere", "--budget", "5 parsecs", "--json")
    assert (size.code, size.document["found"]) == (2, "'5 parsecs'")
    pin = bitbudget("allocate", "/nowhere", "--budget", "5GB", "--pin", "head", "--json")
    assert (pin.code, pin.document["where"]) == (2, "--pin")
