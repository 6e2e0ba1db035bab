"""Random damage to sound documents: every reader answers or refuses, and never breaks.

`BITBUDGET_FUZZ_EXAMPLES=20000 pytest tests/hostile/test_fuzz.py` searches for long; a failure is
shrunk to the smallest damage and kept in `.hypothesis` to be tried first the next time.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bitbudget.app.core.errors import BitbudgetError
from bitbudget.app.core.hub_id import HubId
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.mckp import solve_problem
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.problem_arrays import read_problem
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.core.sizes import parse_size
from bitbudget.workers.files.folder import check_config
from bitbudget.workers.files.headers import parse_header
from bitbudget.workers.models import build_inventory, open_checkpoint
from tests.hostile.manifest_cases import MANIFEST
from tests.hostile.measurement_cases import MEASUREMENT
from tests.hostile.problem_cases import ARRAYS, PROBLEM, pack
from tests.hostile.tiny import CONFIG, header, model, weights

pytestmark = pytest.mark.hostile

REFUSALS = (BitbudgetError, ValidationError)
fuzz = settings(
    max_examples=int(os.environ.get("BITBUDGET_FUZZ_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

numbers = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**53, 2**63, 2**64, 1e308]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def damaged_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """`sound` with some spans replaced, removed or doubled."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        data[start:stop] = draw(
            st.one_of(st.binary(max_size=12), st.just(bytes(data[start:stop] * 2)))
        )
    return bytes(data)


@st.composite
def damaged_document(draw: st.DrawFn, sound: dict[str, Any]) -> dict[str, Any]:
    """`sound` with the values at some places replaced or removed."""
    document = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = document
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(holder[key], (dict, list)) and draw(st.booleans()):
                holder = holder[key]
                continue
            if draw(st.booleans()):
                holder[key] = draw(values)
            else:
                del holder[key]
            break
    return document


def _refused_or(read: Callable[[], object]) -> None:
    try:
        read()
    except REFUSALS as error:
        assert str(error)  # noqa: PT017 - either end is right, so there is nothing to expect


def _solve(data: bytes) -> None:
    problem = read_problem(data)
    solution = solve_problem(problem.problem, problem.budget)
    assert solution.bytes <= problem.budget
    assert solution.bound <= solution.objective


@fuzz
@given(damaged_bytes(json.dumps(MANIFEST).encode()))
def test_damaged_manifest(data: bytes) -> None:
    _refused_or(lambda: Manifest.from_bytes(data).to_bytes())


@fuzz
@given(damaged_document(MANIFEST))
def test_changed_manifest(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    _refused_or(lambda: Manifest.from_bytes(data).to_bytes())


@fuzz
@given(damaged_document(MEASUREMENT))
def test_changed_measurement(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    _refused_or(lambda: Measurement.from_json(data).to_json())


@fuzz
@given(damaged_document(PROBLEM))
def test_changed_problem(document: dict[str, Any]) -> None:
    _refused_or(lambda: _solve(json.dumps(document).encode()))


@fuzz
@given(damaged_bytes(pack(ARRAYS)))
def test_damaged_arrays(data: bytes) -> None:
    _refused_or(lambda: _solve(data))


@fuzz
@given(damaged_document({"model": "org/model", "budget": "1GiB", "pins": {"*": "keep"}}))
def test_changed_request(document: dict[str, Any]) -> None:
    _refused_or(lambda: JobRequest.model_validate_json(json.dumps(document)))


@fuzz
@given(damaged_document(header()[0]))
def test_changed_header(document: dict[str, Any]) -> None:
    raw = json.dumps(document).encode()
    _refused_or(lambda: parse_header("model.safetensors", raw, 8 + len(raw) + header()[1]))


@fuzz
@given(damaged_document(CONFIG))
def test_changed_configuration(document: dict[str, Any]) -> None:
    _refused_or(lambda: check_config(document))


@fuzz
@given(st.one_of(st.text(), damaged_bytes(b"org/name@main").map(lambda raw: raw.decode("latin-1"))))
def test_any_hub_id(text: str) -> None:
    _refused_or(lambda: HubId.parse(text))


@fuzz
@given(st.one_of(st.text(), numbers.map(str)))
def test_any_size(text: str) -> None:
    _refused_or(lambda: parse_size(text))


@fuzz
@given(config=damaged_document(CONFIG), data=damaged_bytes(weights()))
def test_damaged_model(config: dict[str, Any], data: bytes, tmp_path: Path) -> None:
    for name, content in model(model__safetensors=data).items():
        assert isinstance(content, bytes)
        (tmp_path / name).write_bytes(content)
    _refused_or(lambda: build_inventory(open_checkpoint(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(weights())
    (tmp_path / "config.json").write_text(json.dumps(config))
    _refused_or(lambda: build_inventory(open_checkpoint(tmp_path)))
