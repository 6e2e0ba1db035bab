"""Documents of the general solver: a multiple-choice knapsack as JSON or as NumPy arrays.

`docs/solve.md` describes both forms. Reading checks everything that can be wrong and names the
group and the option where it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.mckp import MAX_OPTIONS, MAX_TOTAL, Problem, Row, Solution
from bitbudget.app.core.mckp.problem import Integers

__all__ = ["MAX_PROBLEM_BYTES", "NamedProblem", "read_problem_json"]

MAX_PROBLEM_BYTES: Final = 4 * 2**30
"""A larger document is refused unread."""

_LONGEST: Final = 200
"""Characters of the document that a message repeats."""

_MAX_FLOAT: Final = float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True, eq=False)
class NamedProblem:
    """A knapsack with its budget and the names of its groups and options.

    `option_names` has one name per option in flat order; None stands for their numbers.
    """

    budget: int
    problem: Problem
    group_names: Sequence[str]
    option_names: Sequence[str] | None = None

    def choices(self, solution: Solution) -> dict[str, str]:
        """Return the name of the chosen option of every group."""
        places = solution.choice.tolist()
        if self.option_names is not None:
            chosen = [self.option_names[place] for place in places]
        else:
            firsts = self.problem.offsets[:-1].tolist()
            chosen = [str(place - first) for place, first in zip(places, firsts, strict=True)]
        return dict(zip(self.group_names, chosen, strict=True))


def refuse(where: str, found: str, expected: str, remedy: str) -> InvalidRequestError:
    """Return the error of a document that is wrong at `where`."""
    return InvalidRequestError(
        where=where[:_LONGEST], found=found[:_LONGEST], expected=expected, remedy=remedy
    )


def read_problem_json(data: bytes) -> NamedProblem:
    """Read a JSON problem; InvalidRequestError names the first thing that is wrong."""
    document = _load(data)
    groups = _list_of(document, "groups", "problem")
    _check_count(groups)
    group_names = [_name(group, index, "group") for index, group in enumerate(groups)]
    _check_unique(group_names, "group", "problem")
    option_names: list[str] = []
    sizes: list[int] = []
    bytes_: list[int] = []
    costs: list[float] = []
    for name, group in zip(group_names, groups, strict=True):
        where = f"group {name!r}"
        options = _options(group, where)
        names = [_name(option, index, f"{where}, option") for index, option in enumerate(options)]
        _check_unique(names, "option", where)
        option_names += names
        sizes.append(len(options))
        bytes_ += _numbers(options, "bytes", names, where)
        costs += _numbers(options, "cost", names, where)
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    problem = Problem(
        offsets=offsets,
        bytes=np.array(bytes_, dtype=np.int64),
        costs=np.array(costs, dtype=np.float64),
        rows=_rows(document, sizes, group_names),
    )
    return NamedProblem(whole(document.get("budget"), "budget"), problem, group_names, option_names)


def whole(value: object, where: str) -> int:
    """Return a non-negative whole number of any size; InvalidRequestError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise refuse(where, repr(value), "a whole number of at least 0", "write bytes as integers")
    return value


def _load(data: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise refuse("problem", str(error), "a JSON document", "check the file") from error
    if not isinstance(document, dict):
        raise refuse(
            "problem",
            type(document).__name__,
            "an object with `budget` and `groups`",
            "see docs/solve.md",
        )
    return document


def _list_of(holder: object, key: str, where: str) -> list[Any]:
    value = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(value, list) or not value:
        found = "nothing" if value is None else repr(value)[:60]
        raise refuse(where, f"{key} = {found}", "a list that is not empty", f"give `{key}`")
    return value


def _options(group: object, where: str) -> list[Any]:
    options = group.get("options") if isinstance(group, dict) else None
    if isinstance(options, list) and not options:
        raise refuse(where, "no option", "at least one option", "add one or drop the group")
    return _list_of(group, "options", where)


def _check_count(groups: list[Any]) -> None:
    count = sum(
        len(group["options"])
        for group in groups
        if isinstance(group, dict) and isinstance(group.get("options"), list)
    )
    if count > MAX_OPTIONS:
        raise refuse(
            "problem",
            f"{count} options",
            f"at most {MAX_OPTIONS} options",
            "drop dominated options or merge groups first",
        )


def _name(item: object, index: int, where: str) -> str:
    name = item.get("name", str(index)) if isinstance(item, dict) else None
    if not isinstance(name, str):
        raise refuse(
            f"{where} {index}", repr(item)[:60], "an object whose `name` is a string", "name it"
        )
    return name


def _check_unique(names: list[str], what: str, where: str) -> None:
    if len(set(names)) == len(names):
        return
    seen: set[str] = set()
    double = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    raise refuse(where, f"{what} name {double!r} twice", f"one {what} of that name", "rename one")


def _numbers(options: list[Any], key: str, names: Iterable[str], where: str) -> list[Any]:
    """Return the numbers under `key`, each checked for its type and range."""
    values = [option.get(key) for option in options]
    allowed: set[type] = {int} if key == "bytes" else {int, float}
    top = MAX_TOTAL if key == "bytes" else _MAX_FLOAT
    if set(map(type, values)) <= allowed and all(0 <= value < top for value in values):
        return values
    kind = f"whole number below {MAX_TOTAL}" if key == "bytes" else "finite number"
    name, wrong = next(
        (name, value)
        for name, value in zip(names, values, strict=True)
        if type(value) not in allowed or not 0 <= value < top
    )
    raise refuse(
        f"{where}, option {name!r}",
        f"{key} = {wrong!r}",
        f"a {kind} of at least 0",
        "correct this entry",
    )


def _rows(
    document: Mapping[str, Any], sizes: Sequence[int], group_names: Sequence[str]
) -> tuple[Row, ...]:
    rows = document.get("rows") or []
    if not isinstance(rows, list):
        raise refuse("rows", repr(rows)[:60], "a list of rows", "see docs/solve.md")
    names = [_name(row, index, "row") for index, row in enumerate(rows)]
    _check_unique(names, "row", "rows")
    return tuple(
        Row(
            name,
            min(whole(row.get("limit"), f"row {name!r}, limit"), MAX_TOTAL),
            _weights(row, name, sizes, group_names),
        )
        for name, row in zip(names, rows, strict=True)
    )


def _weights(
    row: Mapping[str, Any], name: str, sizes: Sequence[int], group_names: Sequence[str]
) -> Integers:
    weights = _list_of(row, "weights", f"row {name!r}")
    if len(weights) != len(sizes):
        raise refuse(
            f"row {name!r}",
            f"weights of {len(weights)} groups",
            f"a list per group, {len(sizes)} in all",
            "give one list per group",
        )
    flat: list[int] = []
    for group, size, values in zip(group_names, sizes, weights, strict=True):
        where = f"row {name!r}, group {group!r}"
        if not isinstance(values, list) or len(values) != size:
            raise refuse(where, repr(values)[:60], f"{size} weights", "give one weight per option")
        flat += [_weight(value, where) for value in values]
    return np.array(flat, dtype=np.int64)


def _weight(value: object, where: str) -> int:
    if whole(value, where) >= MAX_TOTAL:
        raise refuse(where, repr(value), f"less than {MAX_TOTAL}", "count in a larger unit")
    return whole(value, where)
