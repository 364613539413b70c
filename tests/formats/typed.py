"""A value against the types that an SDK declares for its callers: TypedDicts, unions, literals; no unknown keys."""

from __future__ import annotations

import collections.abc
import typing
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin

import typing_extensions


def complaint(value: Any, kind: Any, where: str = "$") -> str:
    """What is wrong with a value from JSON, and where; empty if nothing is."""
    origin = get_origin(kind)
    if kind is Any or kind is object:
        return ""
    if origin in (typing.Annotated, Required, NotRequired, typing_extensions.Required, typing_extensions.NotRequired):
        return complaint(value, get_args(kind)[0], where)
    if origin is Union or type(kind).__name__ == "UnionType":
        found = [complaint(value, one, where) for one in get_args(kind)]
        return "" if "" in found else max(found, key=depth)
    if origin is Literal:
        return "" if value in get_args(kind) else f"{where}: {value!r} is none of {get_args(kind)}"
    if typing_extensions.is_typeddict(kind):
        return of_fields(value, kind, where)
    if origin in (list, collections.abc.Iterable, collections.abc.Sequence):
        if not isinstance(value, list):
            return f"{where}: {type(value).__name__} is no list"
        return next(
            filter(None, (complaint(one, get_args(kind)[0], f"{where}[{i}]") for i, one in enumerate(value))), ""
        )
    if origin is dict or origin is collections.abc.Mapping:
        if not isinstance(value, dict):
            return f"{where}: {type(value).__name__} is no object"
        return next(
            filter(None, (complaint(one, get_args(kind)[1], f"{where}.{key}") for key, one in value.items())), ""
        )
    wanted = {float: (int, float), int: (int,), str: (str,), bool: (bool,), type(None): (type(None),)}.get(kind)
    if wanted is None:
        return f"{where}: nothing from JSON is a {kind}"
    is_right = isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))
    return "" if is_right else f"{where}: {value!r} is no {kind.__name__}"


def of_fields(value: Any, kind: Any, where: str) -> str:
    """An object against a TypedDict."""
    if not isinstance(value, dict):
        return f"{where}: {type(value).__name__} is no object"
    hints = typing_extensions.get_type_hints(kind, include_extras=True)
    missing = {key for key, hint in hints.items() if is_needed(key, hint, kind)} - value.keys()
    # What the class is named by goes first: of a union the alternative that was meant complains loudest.
    for key in sorted(value, key=lambda key: key != "type"):
        if key not in hints:
            return f"{where}.{key}: {kind.__name__} has no such field"
        wrong = complaint(value[key], hints[key], f"{where}.{key}")
        if wrong:
            return wrong
    return f"{where}: {kind.__name__} needs {sorted(missing)}" if missing else ""


def is_needed(key: str, hint: Any, kind: Any) -> bool:
    """Must it be there? Where annotations are strings, `__required_keys__` knows of totality alone."""
    origin = get_origin(hint)
    if origin in (Required, typing_extensions.Required):
        return True
    return key in kind.__required_keys__ and origin not in (NotRequired, typing_extensions.NotRequired)


def depth(found: str) -> tuple[bool, int]:
    """How far an alternative went before it complained; that of a type's own name is the least of them."""
    where = found.partition(": ")[0]
    return not where.endswith(".type"), where.count(".") + where.count("[")
