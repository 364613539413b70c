"""The table of failure classes agrees with the table of errors, and with what the contract says of endings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost import errors
from waypost.policy.failures import BY_NAME, TABLE, Failed, FailureClass, class_of_status, ending

LANE = ("provider", "1", "model")


def failed(name: str, retry_after: float | None = None) -> Failed:
    return Failed(LANE, BY_NAME[name], retry_after=retry_after)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_class_ends_in_a_row_of_the_error_table(row: FailureClass) -> None:
    assert row.code in errors.BY_CODE
    assert row.meaning
    assert not (row.spares == "request" and row.again), "what would meet the same everywhere is not repeated"
    assert row.counts == "nothing" or row.spares != "request", "the request's own fault says nothing of the upstream"


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(TABLE)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "content"),
        (401, "credentials"),
        (402, "credentials"),
        (403, "forbidden"),
        (404, "misconfigured"),
        (408, "server_error"),
        (413, "content"),
        (422, "content"),
        (429, "limited"),
        (500, "server_error"),
        (503, "server_error"),
        (529, "server_error"),
        (302, "misconfigured"),
        (204, "misconfigured"),
    ],
)
def test_statuses(status: int, name: str) -> None:
    assert class_of_status(status).name == name


def test_a_prompt_that_is_too_long() -> None:
    assert class_of_status(400, context_length=True).name == "context_length"
    assert class_of_status(500, context_length=True).name == "server_error", "only a 4xx says so of the request"


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["first_byte_timeout", "idle_timeout", "connect_timeout"], "PROVIDER_TIMEOUT"),
        (["first_byte_timeout", "server_error"], "PROVIDER_ERROR"),
        (["limited", "limited"], "UPSTREAM_RATE_LIMITED"),
        (["limited", "connect"], "PROVIDER_ERROR"),
        (["credentials"], "PROVIDER_ERROR"),
        (["busy", "busy"], "OVERLOADED"),
        (["server_error", "content"], "INVALID_REQUEST"),
        (["server_error", "context_length"], "CONTEXT_LENGTH_EXCEEDED"),
        (["server_error", "deadline"], "PROVIDER_TIMEOUT"),
        ([], "PROVIDER_ERROR"),
    ],
)
def test_endings(names: list[str], code: str) -> None:
    assert ending([failed(name) for name in names]).code == code


@given(st.lists(st.sampled_from(TABLE), max_size=6))
def test_504_and_429_only_when_all_agree(kinds: list[FailureClass]) -> None:
    end = ending([Failed(LANE, kind) for kind in kinds]).code
    assert end in errors.BY_CODE
    if end == "UPSTREAM_RATE_LIMITED":
        assert {kind.name for kind in kinds} == {"limited"}
    if end == "PROVIDER_TIMEOUT":
        assert kinds[-1].name == "deadline" or all(kind.code == "PROVIDER_TIMEOUT" for kind in kinds)
    assert end != "AUTHENTICATION_ERROR", "our bad key is not the caller's"


def test_the_earliest_hint_is_passed_on() -> None:
    assert ending([failed("limited", 30), failed("limited", 7), failed("limited")]).retry_after == 7
    assert ending([failed("limited", 30), failed("server_error", 7)]).retry_after is None
