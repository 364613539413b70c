"""The checker finds what it is there to find: true books with one thing wrong each."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.faults.checker import Books, Limit, Row, check
from tests.faults.crowd import Asked
from waypost.records import Usage
from waypost.sim.journal import Exchange

DAY = "a1:requests:day:2027-01-01"
NOON = 1798804800.0  # 2027-01-01T12:00Z
LIMITS = {"one": [Limit("requests", "day", 3)]}


def asked(number: int, status: int = 200, code: str = "", end: str = "whole") -> Asked:
    at = NOON + number
    text = f"nonce:n{number} yes" if status == 200 else ""
    usage = {"total_tokens": 12} if status == 200 else None
    return Asked(
        f"nonce:n{number}",
        0,
        "one",
        "m",
        "plain",
        at,
        at + 0.2,
        at + 0.3,
        status,
        f"id{number}",
        code,
        end,
        usage,
        text,
    )


def row(number: int, **fields: Any) -> Row:
    usage = Usage(fresh=8, output=4)
    at = NOON + number + 0.1
    good = Row(f"id{number}", 1, at, "m", False, {DAY: 1}, "1-a", 200, "", 1, 1, 12, 5, usage, False, 0.1)
    return msgspec.structs.replace(good, **fields)


def exchange(number: int) -> Exchange:
    usage = {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}
    return Exchange(
        number, 1, NOON + number, "POST", "/", nonce=f"nonce:n{number}", end="complete", status=200, usage=usage
    )


class Scene(msgspec.Struct):
    log: list[Asked]
    exchanges: list[Exchange]
    books: dict[str, Any]

    def violations(self) -> list[str]:
        return check(Books(**self.books), self.log, self.exchanges, LIMITS).violations


def true_books() -> Scene:
    """Three requests of a limit of three, and one that was refused after them."""
    return Scene(
        [*(asked(number) for number in range(3)), asked(3, 429, "DAILY_REQUEST_LIMIT_EXCEEDED", "error")],
        [exchange(number) for number in range(3)],
        {
            "rows": [row(number) for number in range(3)],
            "failed": Counter(),
            "accounts": {"one": 1},
            "meters": {DAY: 3},
            "holdings": {("abc", DAY): (3, 2), ("1-a", DAY): (0, 1)},
            "days": (24, 12, 15),
            "journals": 1,
        },
    )


def set_row(scene: Scene, number: int, **fields: Any) -> None:
    scene.books["rows"][number] = row(number, **fields)


def fourth(scene: Scene) -> None:
    """One more than allowed, in the books with everything else in order."""
    scene.log[3] = asked(3)
    scene.exchanges.append(exchange(3))
    scene.books["rows"].append(row(3))
    scene.books["meters"][DAY] = 4
    scene.books["holdings"]["abc", DAY] = (4, 3)
    scene.books["days"] = (32, 16, 20)


def forget(scene: Scene) -> None:
    """A request less, in the books with everything else in order: the refusal was early."""
    del scene.log[2], scene.exchanges[2], scene.books["rows"][2]
    scene.books["holdings"]["abc", DAY] = (3, 1)
    scene.books["days"] = (16, 8, 10)


CASES: dict[str, tuple[str, Callable[[Scene], object]]] = {
    "a lost row": ("I1 nonce:n1 (plain, 200  whole): no row", lambda scene: scene.books["rows"].pop(1)),
    "a row of nobody": ("I1 row id0 ('') is nobody's", lambda scene: scene.log.pop(0)),
    "an exchange of nobody": ("I1 the exchange nonce:n0 is nobody's", lambda scene: scene.log.pop(0)),
    "an exchange too many": ("2 exchanges, 1 attempts", lambda scene: scene.exchanges.append(exchange(1))),
    "an exchange too few": ("0 exchanges, 1 attempts", lambda scene: scene.exchanges.pop(1)),
    "another's answer": ("I12", lambda scene: setattr(scene.log[1], "text", "nonce:n2")),
    "401": ("must never be", lambda scene: setattr(scene.log[3], "status", 401)),
    "a hang": ("I11", lambda scene: setattr(scene.log[3], "end", "hung")),
    "whole but crashed": ("its row says", lambda scene: set_row(scene, 1, code="CRASHED", estimated=True)),
    "an unflagged crash": ("crashed, and no estimate", lambda scene: set_row(scene, 1, code="CRASHED")),
    "an open row": ("row id1 is open", lambda scene: set_row(scene, 1, status=None)),
    "other tokens": ("I2 sums differ", lambda scene: set_row(scene, 1, tokens=13)),
    "other usage": ("I2 nonce:n1: Usage", lambda scene: set_row(scene, 1, usage=Usage(fresh=7, output=5))),
    "estimated for no reason": ("estimated, though", lambda scene: set_row(scene, 1, estimated=True)),
    "one too many": ("I3 one: 4 of 3", fourth),
    "one too few": ("was refused early", forget),
    "another day": ("I3 nonce:n1: holds", lambda scene: set_row(scene, 1, holds={DAY[:-1] + "2": 1})),
    "units of nobody": ("4 taken, 3 granted", lambda scene: scene.books["meters"].update({DAY: 4})),
    "a wrong sum": ("4 spent, the rows say 3", lambda scene: scene.books["holdings"].update({("2-b", DAY): (0, 1)})),
    "a wrong day": ("I4 days say", lambda scene: scene.books.update(days=(24, 12, 16))),
    "a stream at rest": (
        "1 streams at rest",
        lambda scene: scene.books["holdings"].update({("1-a", "a1:streams:total"): (0, 1)}),
    ),
}


def test_true_books_are_found_true() -> None:
    assert true_books().violations() == []


@pytest.mark.parametrize("case", CASES)
def test_one_thing_wrong_is_found(case: str) -> None:
    expected, spoil = CASES[case]
    scene = copy.deepcopy(true_books())
    spoil(scene)
    assert any(expected in violation for violation in scene.violations()), scene.violations()
