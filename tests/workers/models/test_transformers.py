"""The same logits as in transformers, for models as transformers 5 saves them.

torch is no dependency of ours: name the interpreter of an environment that has it and transformers
in BITBUDGET_TORCH_PYTHON and run `pytest -m slow tests/workers/models/test_transformers.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitbudget.app.core.errors import BitbudgetError
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.running.against_transformers import (
    compare,
    difference,
    torch_python,
    write_models,
)

EQUAL = (
    *("afmoe", "apertus", "cohere", "cohere2", "dots1", "ernie4_5", "exaone4", "gemma2"),
    *("gemma3_text", "glm4", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "granite"),
    *("granitemoe", "helium", "internlm3", "llama", "mellum", "ministral3", "mistral", "mixtral"),
    *("nemotron", "olmo2", "olmo3", "olmoe", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe"),
    *("qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2"),
)

pytestmark = pytest.mark.slow
TOLERANCE = 3e-4
"""Of the largest logit; in float32 all but the approximations of GELU are within 2e-6."""

APPROXIMATE = {"gemma": 1e-3}
"""mlx-lm computes the exact GELU where transformers has its tanh form."""

REFUSED = {"glm": "partial_rotary_factor = 0.5", "minicpm3": "config.json"}
"""glm: mlx-lm rotates whole heads; minicpm3: its class asks for a scaling."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tiny models with the logits that transformers gives them."""
    python = torch_python()
    if python is None:
        pytest.skip("no torch: set BITBUDGET_TORCH_PYTHON to an interpreter that has it")
    folder = tmp_path_factory.mktemp("transformers")
    write_models(python, folder, [*EQUAL, *APPROXIMATE, *REFUSED])
    return folder


@pytest.mark.parametrize("model_type", EQUAL)
def test_logits_are_those_of_transformers(model_type: str, made: Path) -> None:
    failures = json.loads((made / "failures.json").read_text())
    assert model_type not in failures, failures
    assert difference(made / model_type) < TOLERANCE
    assert build_inventory(open_checkpoint(made / model_type)).modules


@pytest.mark.parametrize("model_type", APPROXIMATE)
def test_logits_are_near_those_of_transformers(model_type: str, made: Path) -> None:
    assert difference(made / model_type) < APPROXIMATE[model_type]


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_would_be_another_model_is_refused(model_type: str, made: Path) -> None:
    with pytest.raises(BitbudgetError, match=REFUSED[model_type]):
        build_inventory(open_checkpoint(made / model_type))


def test_what_doctor_compares_is_within_its_tolerance() -> None:
    python = torch_python()
    if python is None:
        pytest.skip("no torch: set BITBUDGET_TORCH_PYTHON to an interpreter that has it")
    found = compare(python, ["llama", "unheard_of"])
    assert isinstance(found["llama"], float)
    assert found["llama"] < TOLERANCE
    assert "unheard_of" in str(found["unheard_of"])
