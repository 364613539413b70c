"""What an upstream's answer that is no good one means."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from waypost.worker.outcome import retry_after


def head(*lines: str) -> bytes:
    return "\r\n".join(("http/1.1 429 too many requests", *lines, "", "")).encode()


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ((), None),
        (("retry-after: 7",), 7),
        (("retry-after: 0",), 0),
        (("retry-after: 1.2",), 2),
        (("retry-after: 600.0",), 600),
        (("retry-after: 99999999999",), 1_000_000_000),
        (("retry-after: " + "9" * 4000,), 1_000_000_000),
        (("retry-after-ms: 1200",), 2),
        (("retry-after: 9", "retry-after-ms: 500.5"), 1),
        (("retry-after: 9", "retry-after-ms: soon"), 9),
        (("retry-after: -5",), None),
        (("retry-after: soon",), None),
        (("retry-after:",), None),
        (("retry-after: sun, 22 nov 2026 10:02:00 gmt", "date: sun, 22 nov 2026 10:00:00 gmt"), 120),
        (("retry-after: sun, 22 nov 2026 09:58:00 gmt", "date: sun, 22 nov 2026 10:00:00 gmt"), 0),
        (("retry-after: sun, 22 nov 2026 10:02:00 gmt", "date: today"), None),
    ],
)
def test_retry_after_in_every_form(lines: tuple[str, ...], seconds: int | None) -> None:
    assert retry_after(head(*lines)) == seconds


def test_a_date_counts_from_now_where_the_answer_has_none_of_its_own() -> None:
    seconds = retry_after(head("retry-after: " + formatdate(time.time() + 5000, usegmt=True).lower()))
    assert seconds is not None and 4000 < seconds <= 5000
