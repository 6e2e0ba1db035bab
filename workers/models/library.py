"""mlx-lm's model classes and caches, without the tokenizers that `import mlx_lm` brings along.

`mlx_lm/__init__.py` imports transformers, which takes seconds; its model files need none of it. The
package is put in place unexecuted, so that `mlx_lm.models.*` can be imported, and executed as soon
as somebody asks for a name of it, such as `mlx_lm.load`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject

__all__ = ["defer_package", "model_classes"]

_PACKAGE: Final = "mlx_lm"
_PUBLIC: Final = ("__all__", "__version__")
_BY_TYPE: Final = "MODEL_REMAPPING"
_BY_ARCHITECTURE: Final = "MODEL_ARCHITECTURE_REMAPPING"


class _DeferredPackage(ModuleType):
    """A package whose `__init__` runs when a name that only it defines is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _PUBLIC:
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(self)
        return getattr(self, name)


def defer_package() -> None:
    """Let `mlx_lm.models.*` be imported without executing `mlx_lm/__init__.py`.

    Nothing happens where the package was imported already, or is not installed.
    """
    if _PACKAGE in sys.modules:
        return
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None:
        return
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _DeferredPackage
    # What the package sets first of all, for whoever imports one of its modules before it.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    sys.modules[_PACKAGE] = package


def model_classes(config: JsonObject) -> tuple[Any, Any]:
    """Return the classes of the model and of its arguments, as `mlx_lm.utils` finds them.

    Raises ValueError when mlx-lm has no such model, AttributeError when its file has no classes.
    """
    defer_package()
    tables = _renamed()
    if tables is None or f"{_PACKAGE}.utils" in sys.modules:
        utilities = importlib.import_module(f"{_PACKAGE}.utils")
        try:
            found: tuple[Any, Any] = utilities._get_classes(config)  # noqa: SLF001 - no public way
        except SystemExit as error:  # one model file ends the process without its package
            raise ValueError(f"Model type {config['model_type']} not supported.") from error
        return found
    name = _file_of(config, *tables)
    try:
        module = importlib.import_module(f"{_PACKAGE}.models.{name}")
    except (
        ImportError,
        SystemExit,
    ) as error:  # one model file ends the process without its package
        raise ValueError(f"Model type {name} not supported.") from error
    return module.Model, module.ModelArgs


def _file_of(config: JsonObject, by_type: dict[Any, str], by_architecture: dict[Any, str]) -> str:
    """Return the name of the model file, as `mlx_lm.utils._get_classes` chooses it (0.32)."""
    model_type = config["model_type"]
    architectures = config.get("architectures") or ()
    if isinstance(architectures, str):
        architectures = (architectures,)
    for architecture in architectures:
        renamed = by_architecture.get((model_type, architecture))
        if renamed is not None:
            return renamed
    return by_type.get(model_type, str(model_type))


@cache
def _renamed() -> tuple[dict[Any, str], dict[Any, str]] | None:
    """Read the tables of renamed types from the text of `mlx_lm/utils.py`.

    None when they are not there as literals, or when the function that uses them has changed its
    ways: then that function itself is the only source.
    """
    spec = importlib.util.find_spec(f"{_PACKAGE}.utils")
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    tables = {name: _literal(tree, name) for name in (_BY_TYPE, _BY_ARCHITECTURE)}
    chooser = next(
        (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "_get_classes"), None
    )
    if chooser is None or any(table is None for table in tables.values()):
        return None
    used = {node.id for node in ast.walk(chooser) if isinstance(node, ast.Name)}
    constants = {name for name in used if name.isupper()}
    if constants != set(tables):
        return None
    return tables[_BY_TYPE] or {}, tables[_BY_ARCHITECTURE] or {}


def _literal(tree: ast.Module, name: str) -> dict[Any, str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                return None
            return value if isinstance(value, dict) else None
    return None
