"""From a model's name to behaviour: the options and faults it carries, read and listed."""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec

from waypost.sim.faults import FAULTS, Arguments, Chosen, Fault
from waypost.sim.options import OPTIONS, Behaviour, Option


class UnknownNameError(Exception):
    """A model name that means to be a fault or an option, and is none."""


def _expression(pattern: str) -> re.Pattern[str]:
    values = {"N": r"(\d{1,9})", "MS": r"(\d{1,9})", "NNN": r"([1-5]\d\d)", "P": r"(\d{1,3})", "X": r"(.*)"}
    return re.compile("-".join(values.get(part, re.escape(part)) for part in pattern.split("-")))


ROWS: tuple[Option | Fault, ...] = (*OPTIONS, *FAULTS)
_EXPRESSIONS = tuple((_expression(row.pattern), row) for row in ROWS)
# The first word of each name: what begins so and matches no row is a slip, not somebody's model.
_STEMS = frozenset(row.pattern.split("-")[0] for row in ROWS) - {"content", "no"}


class Role(msgspec.Struct, frozen=True):
    """What a model name asks for. `limited` are the parts that only some formats know, and which."""

    behaviour: Behaviour
    faults: tuple[Chosen, ...] = ()
    limited: tuple[tuple[str, tuple[str, ...]], ...] = ()


@functools.lru_cache(4096)
def read_name(model: str, prefix: str = "") -> Role:
    """The options and faults in a model name, joined by `+`, `sim/` before it or not; and in a path's prefix.

    `demo`, or any name that does not begin like a row, plays no part but in `Behaviour.name`.
    Raises UnknownNameError for what begins like a row and is none, and for a later part that matches none.
    """
    name = "demo"
    fields: dict[str, Any] = {}
    faults: list[Chosen] = []
    limited: list[tuple[str, tuple[str, ...]]] = []
    parts = model.removeprefix("sim/").split("+")
    from_prefix = [part for part in re.split(r"[/+]", prefix) if _find(part)]
    for position, part in enumerate([*parts, *from_prefix]):
        found = _find(part)
        if found is None:
            if position > 0 or part.split("-")[0] in _STEMS:
                raise UnknownNameError(part)
            name = part
            continue
        row, arguments = found
        limited += [(part, row.formats)] if row.formats else []
        if isinstance(row, Fault):
            faults.append(Chosen(part, row, arguments))
            fields |= {name: True for name in ("unicode", "blocked") if getattr(row, name)}
        else:
            fields[row.field] = int(arguments[0]) if row.value is None else row.value
    return Role(Behaviour(**{"name": name, **fields}), tuple(faults), tuple(limited))


def _find(part: str) -> tuple[Option | Fault, Arguments] | None:
    for expression, row in _EXPRESSIONS:
        if found := expression.fullmatch(part):
            return row, found.groups()
    return None


def _meaning(row: Option | Fault) -> str:
    return f"{row.meaning} (only {', '.join(row.formats)})" if row.formats else row.meaning


def render_list() -> str:
    """The table as text, for `--list`."""
    rows = [("name", "", "what happens"), *((row.pattern, row.number, _meaning(row)) for row in ROWS)]
    return "\n".join(f"{name:<24}{number:<5}{meaning}" for name, number, meaning in rows)


def render_table() -> str:
    """The table as Markdown, for docs/simulator.md."""

    def rows(table: tuple[Option | Fault, ...]) -> str:
        lines = [f"| `{row.pattern}` | `{row.example}` | {row.number} | {_meaning(row)} |" for row in table]
        return "\n".join(["| name | for example | | what happens |", "|---|---|---|---|", *lines])

    return f"### Options\n\n{rows(OPTIONS)}\n\n### Faults\n\n{rows(FAULTS)}\n"
