"""Model classes without the rest of mlx-lm, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

IMPORT_ALL = """
import importlib, json, pkgutil, sys
{first}
import mlx_lm.models
found = {{}}
for file in pkgutil.iter_modules(mlx_lm.models.__path__):
    try:
        module = importlib.import_module(f"mlx_lm.models.{{file.name}}")
        found[file.name] = sorted(name for name in vars(module) if not name.startswith("__"))
    except BaseException as error:
        found[file.name] = [type(error).__name__]
deferred = "transformers" not in sys.modules
import mlx_lm
usable = callable(mlx_lm.load) and callable(mlx_lm.generate) and bool(mlx_lm.__version__)
print(json.dumps([found, deferred, usable]))
"""
CONFIGS: list[dict[str, Any]] = [
    {"model_type": "mistral"},
    {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]},
    {"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]},
    {"model_type": "bailing_hybrid", "architectures": "Other"},
    {"model_type": "olmo"},
    {"model_type": "no_such_model"},
]
DEFER = "from bitbudget.workers.models.library import defer_package; defer_package()"


def run(program: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_every_model_file_imports_as_with_the_whole_package() -> None:
    stock, was_deferred, _ = run(IMPORT_ALL.format(first="import mlx_lm"))
    ours, is_deferred, usable = run(IMPORT_ALL.format(first=DEFER))
    assert len(ours) > 100
    assert ours == stock
    assert (was_deferred, is_deferred, usable) == (False, True, True)


def test_the_package_loads_and_generates_after_it_was_deferred() -> None:
    text = run(f"""
{DEFER}
from bitbudget.workers.models import open_checkpoint, build_inventory
from bitbudget.samples import sample_model
import json, sys
folder = sample_model()
build_inventory(open_checkpoint(folder))
assert "transformers" not in sys.modules
from mlx_lm import generate, load
model, tokenizer = load(str(folder))
print(json.dumps(generate(model, tokenizer, "Once upon a time", max_tokens=4)))
""")
    assert isinstance(text, str)
    assert text


def test_classes_are_those_that_mlx_lm_chooses() -> None:
    ask = f"""
import json
found = []
for config in {CONFIGS!r}:
    try:
        found.append([kind.__module__ + "." + kind.__name__ for kind in choose(config)])
    except (ValueError, SystemExit):
        found.append(["refused"])
print(json.dumps(found))
"""
    stock = run("from mlx_lm.utils import _get_classes as choose" + ask)
    lean = run("from bitbudget.workers.models.library import model_classes as choose" + ask)
    assert lean == stock
    assert lean[-1] == ["refused"]
