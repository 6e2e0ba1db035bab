"""`python -m bitbudget.workers.api`: mlx-lm's HTTP server, serving one checkpoint of ours.

What stock `mlx_lm.server` cannot load it then can: KV caches chosen layer by layer, rotations,
KV codecs. With a draft model, sampled tokens are drawn with noise that both models share, so that
most drafted tokens are accepted at any temperature.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Any, Final

from bitbudget.loading import load_model
from bitbudget.sampling import shared_noise

__all__ = ["main"]

_SEED_LIMIT: Final = 2**32
_DEFAULT: Final = "default_model"


def main() -> None:
    """Serve until interrupted or terminated; see `bitbudget api --help` for the options."""
    options = _parser().parse_args()
    server: Any = importlib.import_module("mlx_lm.server")
    server.load = _load
    server.ModelProvider = _one_model(server, options.checkpoint)
    if options.draft_model:
        _share_noise(server)
    signal.signal(signal.SIGTERM, _interrupt)
    server.APIHandler.handle_models_request = _list_of(options.checkpoint.name)
    sys.argv = ["mlx_lm.server", *_stock_arguments(options)]
    server.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # MLX's streams belong to threads that are gone: a normal exit may abort


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bitbudget api")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--draft-model", type=Path)
    parser.add_argument("--draft-tokens", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--allowed-origins", default="")
    return parser


def _stock_arguments(options: argparse.Namespace) -> list[str]:
    arguments = ["--model", str(options.checkpoint), "--host", options.host]
    arguments += ["--port", str(options.port), "--max-tokens", str(options.max_tokens)]
    arguments += ["--allowed-origins", options.allowed_origins or "null"]
    if options.draft_model:
        arguments += ["--draft-model", str(options.draft_model)]
        arguments += ["--num-draft-tokens", str(options.draft_tokens)]
    return arguments


def _interrupt(*_: object) -> None:
    """End as on Ctrl-C, which mlx-lm's server shuts down on."""
    raise KeyboardInterrupt


def _load(path: str, **options: Any) -> tuple[Any, ...]:
    """Return model and tokenizer (and configuration, if asked) as `mlx_lm.utils.load` does."""
    model, config = load_model(Path(path))
    utilities: Any = importlib.import_module("mlx_lm.utils")
    tokenizer = utilities.load_tokenizer(
        Path(path), options.get("tokenizer_config"), eos_token_ids=config.get("eos_token_id")
    )
    return (model, tokenizer, config) if options.get("return_config") else (model, tokenizer)


def _one_model(server: Any, checkpoint: Path) -> type:
    """Return a provider that serves `checkpoint` alone: no client names files of this machine."""
    names = {_DEFAULT, checkpoint.name, str(checkpoint), str(checkpoint.resolve())}
    base: type = server.ModelProvider

    class OneModel(base):  # type: ignore[misc]
        def load(
            self, model_path: str, adapter_path: str | None = None, draft_model_path: Any = None
        ) -> Any:
            """Return model and tokenizer; ValueError for a model that is not served here."""
            if model_path not in names or adapter_path is not None:
                msg = f"this endpoint serves '{checkpoint.name}' only, without adapters"
                raise ValueError(msg)
            del draft_model_path  # the one given at the start, whatever a request says
            return super().load(_DEFAULT, None, _DEFAULT)

    return OneModel


def _list_of(name: str) -> Any:
    """Return the handler of `GET /v1/models`: the model served, not what else this machine has."""

    def handle(handler: Any) -> None:
        model = {"id": name, "object": "model", "created": handler.created}
        handler._set_completion_headers(200)  # noqa: SLF001
        handler.end_headers()
        handler.wfile.write(json.dumps({"object": "list", "data": [model]}).encode())
        handler.wfile.flush()

    return handle


def _share_noise(server: Any) -> None:
    """Draw tokens by noise that draft and target share, not by two independent samples."""
    stock_sampler, stock_processors = server._make_sampler, server._make_logits_processors  # noqa: SLF001

    def shares(arguments: Any) -> bool:
        shows_probabilities = arguments.logprobs or arguments.top_logprobs > 0
        uses_xtc = arguments.sampling.xtc_probability > 0
        return arguments.sampling.temperature > 0 and not shows_probabilities and not uses_xtc

    def sampler(arguments: Any, tokenizer: Any) -> Any:
        return None if shares(arguments) else stock_sampler(arguments, tokenizer)

    def processors(arguments: Any) -> list[Any]:
        found: list[Any] = stock_processors(arguments)
        if not shares(arguments):
            return found
        seed = secrets.randbelow(_SEED_LIMIT) if arguments.seed is None else arguments.seed
        wanted = arguments.sampling
        noise = shared_noise(
            wanted.temperature,
            seed % _SEED_LIMIT,
            top_p=wanted.top_p,
            top_k=wanted.top_k,
            min_p=wanted.min_p,
        )
        return [*found, noise]

    server._make_sampler, server._make_logits_processors = sampler, processors  # noqa: SLF001


if __name__ == "__main__":
    main()
