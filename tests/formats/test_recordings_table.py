"""The table of recorded answers: nothing in it fails without a reason, and docs/formats.md has it as it is."""

from __future__ import annotations

import pathlib

from tests.formats.recordings import read_table

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_table_is_that_of_the_page() -> None:
    page = PAGE.read_text()
    for row in read_table():
        assert row.total > 0
        for line in row.lines():
            assert f"{line}\n" in page
