"""What lies beside the weights is what stock mlx-lm writes and other loaders need."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.formats import KEEP
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.models.tokenizer import open_tokenizer
from bitbudget.workers.quantize import write_checkpoint
from tests.workers.models.tiny import write_tiny
from tests.workers.quantize.manifests import manifest_of

TYPES = ["llama", "qwen3", "olmo2"]


def written(folder: Path, output: Path) -> Path:
    checkpoint = open_checkpoint(folder)
    inventory = build_inventory(checkpoint)
    kept = {module.path: KEEP for module in inventory.modules}
    manifest = manifest_of(checkpoint, inventory, kept)
    write_checkpoint(checkpoint, inventory, manifest, output, progress=lambda *_: None)
    return output


def refuse(word: str) -> None:
    pytest.fail(f"{word} is no JSON")


@pytest.mark.parametrize("model_type", TYPES)
def test_config_is_strict_json(model_type: str, tmp_path: Path) -> None:
    limits: Any = {"time_step_limit": [0.0, float("inf")], "x": float("-inf")}
    folder = write_tiny(tmp_path / "model", model_type, **limits)
    assert "Infinity" in (folder / "config.json").read_text()
    text = (written(folder, tmp_path / "out") / "config.json").read_text()
    config = json.loads(text, parse_constant=refuse)
    assert config["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    from mlx_lm.utils import load_config, load_model  # noqa: PLC0415, the reference

    assert load_config(tmp_path / "out")["time_step_limit"][1] == float("inf")
    load_model(tmp_path / "out")


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "qwen2"])
def test_tokenizer_json_is_made_of_vocabulary_and_merges(
    model_type: str, sample_model: Path, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "model", model_type, vocab_size=4096)
    whole = json.loads((sample_model / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    merges = [" ".join(pair) for pair in whole["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    output = written(folder, tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(output / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode("Once upon a time").ids) == "Once upon a time"
    assert (output / "merges.txt").is_file()


@pytest.mark.parametrize("model_type", TYPES)
def test_the_files_of_the_tokenizer_are_kept(
    model_type: str, sample_model: Path, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "model", model_type)
    shutil.copy(sample_model / "tokenizer.json", folder)
    kept = {
        "bpe.vocab": "x",
        "special_tokens_map.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "qwen.tiktoken": "x",
        "tokenization_own.py": "raise SystemExit",
        "generation_config.json": "{}",
        "LICENSE": "x",
    }
    auto_map = {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}
    left = {"evil.py": "raise SystemExit", "training_args.bin": "x", "hf_quant_config.json": "{}"}
    for name, text in (kept | left).items():
        (folder / name).write_text(text)
    (folder / "tokenizer_config.json").write_text(json.dumps(auto_map))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("x")
    assert any("code of its own" in note for note in open_checkpoint(folder).notes)
    output = written(folder, tmp_path / "out")
    names = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert names >= {*kept, "additional_chat_templates/tools.jinja", "tokenizer.json"}
    assert not names & left.keys()


def test_a_tokenizer_that_is_code_alone_is_refused_for_that(tmp_path: Path) -> None:
    auto_map = {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(auto_map))
    (tmp_path / "tokenization_own.py").write_text("raise SystemExit")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(
        InvalidModelError, match=r"code of its own \(tokenization_own\.OwnTokenizer"
    ):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize("model_type", TYPES)
def test_no_tokenizer_is_told_before_anything_is_done(model_type: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", model_type)
    assert any("no tokenizer" in note for note in open_checkpoint(folder).notes)
    assert not (written(folder, tmp_path / "out") / "tokenizer.json").exists()


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_written_is_in_the_words_of_the_class(model_type: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", model_type)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_theta"]
    config |= {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "dtype": "bfloat16"}
    config["quantization_config"] = {"quant_method": "gptq"}
    (folder / "config.json").write_text(json.dumps(config))
    found = json.loads((written(folder, tmp_path / "out") / "config.json").read_text())
    assert (found["rope_theta"], found["torch_dtype"]) == (5e5, "bfloat16")
    assert "quantization_config" not in found
