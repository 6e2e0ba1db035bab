"""Error messages do not depend on how Python is started."""

from __future__ import annotations

import subprocess
import sys

_RAISE = """
import importlib, pkgutil
import bitbudget.app
from bitbudget.app.core.errors import BitbudgetError, NotFoundError

for module in pkgutil.walk_packages(bitbudget.app.__path__, "bitbudget.app."):
    if module.name.endswith((".errors", ".failures", ".transport")):
        importlib.import_module(module.name)

assert BitbudgetError.__doc__ is None, "started without -OO"
assert str(NotFoundError(what="job", name="x")) == "There is no job 'x'."

def kinds(kind):
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)

found = {kind.__name__: kind.template for kind in kinds(BitbudgetError)}
assert len(found) > 20, found
assert [name for name, template in found.items() if not template.endswith(".")] == []
"""


def test_messages_stand_without_docstrings() -> None:
    ended = subprocess.run(
        [sys.executable, "-OO", "-c", _RAISE], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_the_command_line_tells_its_errors_without_docstrings() -> None:
    command = ["-OO", "-m", "bitbudget.app.cli", "solve", "/nowhere.json"]
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "/nowhere.json: found No such file or directory, expected" in ended.stderr
