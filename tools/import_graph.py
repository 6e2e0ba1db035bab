"""Draw which packages import which, from the code itself: `python -m tools.import_graph`.

Writes `docs/images/imports-app.svg` and `imports-workers.svg`. An arrow from A to B says that a
module of A imports one of B; arrows that follow from others (A to B to C, hence A to C) are left
out. Packages that import each other share a box.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import grimp

from tools.layered_drawing import Drawing, draw

__all__ = ["PICTURES", "Picture", "draw_imports"]

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "images"
_ROOT: Final = "bitbudget"
Node = TypeVar("Node")


@dataclass(frozen=True)
class Picture:
    """A file and the package whose subpackages it shows; `beside` are boxes from elsewhere."""

    name: str
    package: str
    beside: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """Where the picture lies."""
        return FOLDER / f"{self.name}.svg"


PICTURES: Final = (
    Picture("imports-app", "app"),
    Picture("imports-workers", "workers", ("app.core", "app.contract", "app.client")),
)


def draw_imports() -> dict[Picture, str]:
    """Return each picture as SVG."""
    graph = grimp.build_graph(_ROOT)
    return {picture: _draw(graph, picture) for picture in PICTURES}


def _draw(graph: grimp.ImportGraph, picture: Picture) -> str:
    names = sorted(
        child.removeprefix(f"{_ROOT}.")
        for child in graph.find_children(f"{_ROOT}.{picture.package}")
        if graph.find_children(child)
    )
    boxes = [*names, *picture.beside]
    arrows = {(a, b) for a in boxes for b in boxes if a != b and _imports(graph, a, b)}
    groups = _cycles(boxes, arrows)
    of = {name: group for group in groups for name in group}
    between = {(of[a], of[b]) for a, b in arrows if of[a] != of[b]}
    labels = {group: [_label(name, picture) for name in sorted(group)] for group in groups}
    title = f"Imports between the packages of bitbudget.{picture.package}"
    return draw(Drawing(title, labels, _reduced(between)))


def _imports(graph: grimp.ImportGraph, importer: str, imported: str) -> bool:
    names = (f"{_ROOT}.{importer}", f"{_ROOT}.{imported}")
    return graph.direct_import_exists(importer=names[0], imported=names[1], as_packages=True)


def _label(name: str, picture: Picture) -> str:
    return name.removeprefix(f"{picture.package}.")


def _cycles(boxes: Iterable[str], arrows: set[tuple[str, str]]) -> list[frozenset[str]]:
    """Return the boxes grouped so that those which reach each other are together."""
    reached = {box: _reach(box, arrows) for box in boxes}
    groups = {frozenset({a} | {b for b in reached[a] if a in reached[b]}) for a in reached}
    return sorted(groups, key=sorted)


def _reach(start: Node, arrows: set[tuple[Node, Node]]) -> set[Node]:
    seen: set[Node] = set()
    open_ = [start]
    while open_:
        here = open_.pop()
        following = {b for a, b in arrows if a == here} - seen
        seen |= following
        open_ += following
    return seen


def _reduced(arrows: set[tuple[Node, Node]]) -> set[tuple[Node, Node]]:
    """Return the arrows of an acyclic graph that do not follow from others."""
    return {(a, b) for a, b in arrows if b not in _reach(a, arrows - {(a, b)})}


def main() -> None:
    """Write every picture that has changed and say which."""
    for picture, text in draw_imports().items():
        if not picture.file.exists() or picture.file.read_text() != text:
            picture.file.write_text(text)
            sys.stdout.write(f"{picture.file} is new\n")


if __name__ == "__main__":
    main()
