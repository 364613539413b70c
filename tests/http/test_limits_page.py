"""docs/limits.md says what the code does."""

from __future__ import annotations

import pathlib
import re

import msgspec

from waypost import preset_messages
from waypost.api.endpoints import PRESET
from waypost.claims import ANSWER_LIMIT
from waypost.formats.json_gate import DEPTH, DIGITS, KEYS
from waypost.http.client import HEAD_LIMIT
from waypost.http.message import Limits
from waypost.http.pool import PENDING
from waypost.keeper.store.answers import ACCOUNT_LIMIT, ROOM_SECONDS, ROW
from waypost.policy.preferences import LARGEST
from waypost.policy.preset import REFERENCE_LENGTH
from waypost.worker.idempotency import LONGEST_KEY, UNDELIVERED
from waypost.worker.relay import BODY_LIMIT, EVENT_LIMIT
from waypost.worker.sharing import STREAM_LIMIT

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "limits.md").read_text()
UNITS = {"KiB": 1024, "MiB": 1024 * 1024}


def rows() -> dict[str, str]:
    """Each table row's name and value."""
    return dict(re.findall(r"^\| `?([^|`]+?)`? \| ([^|]+?) \|", PAGE, re.MULTILINE))


def number(text: str) -> float:
    match = re.match(r"([\d.]+)(?: (KiB|MiB))?", text)
    assert match, text
    return float(match[1]) * UNITS.get(match[2], 1)


def test_every_limit_of_the_struct_is_on_the_page() -> None:
    page = rows()
    for name, value in msgspec.structs.asdict(Limits()).items():
        assert name in page, f"{name} is missing from docs/limits.md"
        assert number(page[name]) == value, name


def test_other_limits_are_on_the_page() -> None:
    page = rows()
    expected = {
        "depth": DEPTH,
        "keys": KEYS,
        "digits": DIGITS,
        "head": HEAD_LIMIT,
        "body of an answer that is no stream": BODY_LIMIT,
        "one event of a stream": EVENT_LIMIT,
        "requests waiting for a connection": PENDING,
    }
    assert {name: number(page[name]) for name in expected} == expected


def test_nothing_else_is_on_the_page() -> None:
    own = {"limit", "---", "depth", "keys", "digits", "head", "requests waiting for a connection"}
    own |= {"the fields provider and models", "the field preset"}
    own |= {"body of an answer that is no stream", "one event of a stream", *KEPT, *OF_PRESETS}
    assert set(rows()) - own == set(Limits.__struct_fields__)


OF_PRESETS = {
    "slug of a preset": preset_messages.SLUG,
    "name of a preset": preset_messages.NAME,
    "model of a preset": preset_messages.MODEL,
    "system prompt": preset_messages.SYSTEM_PROMPT,
    "parameters": preset_messages.PARAMS,
    "tools": preset_messages.TOOLS,
    "one version": preset_messages.BODY,
    "versions of one preset": preset_messages.VERSIONS,
    "presets of one account": preset_messages.PRESETS,
    "all versions of one account's presets": preset_messages.TOTAL,
    "time in the response cache": preset_messages.TTL,
}


def test_limits_of_presets_are_on_the_page() -> None:
    page = rows()
    assert {name: number(page[name]) for name in OF_PRESETS} == OF_PRESETS
    assert f"{PRESET // 1024} KiB" in PAGE


KEPT = {
    "key": LONGEST_KEY,
    "stream that is written down": STREAM_LIMIT,
    "one kept answer, compressed": ANSWER_LIMIT,
    "kept answers of one account": ACCOUNT_LIMIT,
    "answers that wait for a keeper that is away": UNDELIVERED,
}


def test_limits_of_kept_answers_are_on_the_page() -> None:
    page = rows()
    assert {name: number(page[name]) for name in KEPT} == KEPT
    assert f"with {ROW // 1024} KiB for each" in page["kept answers of one account"]
    assert f"at least every {ROOM_SECONDS:g} seconds" in PAGE


def test_the_fields_that_name_others() -> None:
    page = rows()
    assert number(page["the fields provider and models"]) == LARGEST
    assert number(page["the field preset"]) == REFERENCE_LENGTH
