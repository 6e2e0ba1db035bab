"""The endpoint as an OpenAI client meets it: chat, streaming, drafts, many at once, shutdown."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from mlx_lm import convert

from tests.support.ports import free_port

PROMPT: Any = [{"role": "user", "content": "Once upon a time"}]
START_SECONDS, END_SECONDS = 60, 20


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[openai.OpenAI, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "bitbudget.app.cli", "api", *arguments, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        address = f"http://127.0.0.1:{port}/v1"
        try:
            _wait(address, process)
            yield openai.OpenAI(base_url=address, api_key="none", max_retries=0), process
        finally:
            process.terminate()
            process.wait(END_SECONDS)


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx2.get(f"{address}/models").status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.2)
    process.kill()
    pytest.fail(f"the endpoint did not start: {process.communicate()[0].decode()[-800:]}")


@pytest.fixture(scope="module")
def small(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4-bit copy of the sample model, as a draft."""
    folder = tmp_path_factory.mktemp("draft") / "four"
    convert(str(sample_model), str(folder), quantize=True, q_bits=4)
    return folder


@pytest.fixture(scope="module", params=["tinyqwen3-dense", "tinyqwen3-moe"])
def served(request: pytest.FixtureRequest, sample_model: Path, fixtures_dir: Path) -> Path:
    """The folder of the model that is served."""
    name: str = request.param
    return sample_model if name == sample_model.name else fixtures_dir / name


@pytest.fixture(scope="module")
def client(served: Path) -> Iterator[openai.OpenAI]:
    with serving(str(served)) as (client, _):
        yield client


@pytest.mark.e2e
def test_chat_is_answered_and_streamed_alike(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="default_model", messages=PROMPT, max_tokens=16, temperature=0
    )
    parts: Any = client.chat.completions.create(
        model="default_model", messages=PROMPT, max_tokens=16, temperature=0, stream=True
    )
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 16
    assert text == whole.choices[0].message.content


@pytest.mark.e2e
def test_twenty_requests_at_once_are_all_answered(client: openai.OpenAI) -> None:
    def ask(number: int) -> str:
        answer = client.completions.create(
            model="default_model", prompt=f"Story {number}:", max_tokens=8, temperature=0
        )
        return answer.choices[0].text

    with ThreadPoolExecutor(20) as pool:
        texts = list(pool.map(ask, range(20)))
    assert len(texts) == 20
    assert all(texts)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["org/other", "/etc", "../tinyqwen3-dense"])
def test_no_client_names_another_model(client: openai.OpenAI, served: Path, name: str) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        client.completions.create(model=name, prompt="x", max_tokens=1)
    assert error.value.status_code == 404
    assert f"serves '{served.name}' only" in error.value.response.text


@pytest.mark.e2e
def test_only_the_served_model_is_listed(client: openai.OpenAI, served: Path) -> None:
    assert [model.id for model in client.models.list()] == [served.name]


@pytest.mark.e2e
def test_a_draft_model_samples_and_the_seed_repeats(sample_model: Path, small: Path) -> None:
    with serving(str(sample_model), "--draft-model", str(small)) as (client, _):
        texts = [
            client.completions.create(
                model="default_model", prompt="Once", max_tokens=24, temperature=1, seed=seed
            )
            .choices[0]
            .text
            for seed in (1, 1, 2)
        ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.e2e
def test_termination_ends_it_cleanly(sample_model: Path) -> None:
    with serving(str(sample_model)) as (client, process):
        client.completions.create(model="default_model", prompt="x", max_tokens=1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_SECONDS) == 0
        assert process.stdout is not None
        said = process.stdout.read()
    assert b"Traceback" not in said
    assert b"terminate called" not in said


def test_other_addresses_than_loopback_are_refused(sample_model: Path) -> None:
    command = [sys.executable, "-m", "bitbudget.app.cli", "api", str(sample_model)]
    ended = subprocess.run(
        [*command, "--host", "0.0.0.0"],  # noqa: S104 - what is refused
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "asks for no key" in ended.stderr
