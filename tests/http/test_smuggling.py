"""No bytes make one request look like two, here or upstream: each case of `smuggling_cases` on its own connection."""

from __future__ import annotations

import pytest

from tests.harness import Answer, Client, Waypost
from tests.http.nonces import fresh_nonce, times_seen
from tests.http.smuggling_cases import CASES, EVIL_NONCE, KEY, NONCE, Case
from tests.sim.running import Running


def test_cases_are_many_and_their_names_unique() -> None:
    assert len(CASES) >= 250
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, waypost: Waypost, simulator: Running) -> None:
    nonce, evil, after = fresh_nonce("case"), fresh_nonce("evil"), fresh_nonce("next")
    data = case.data.replace(KEY, waypost.key.encode())
    data = data.replace(NONCE, nonce.encode()).replace(EVIL_NONCE, evil.encode())
    with waypost.connect() as client:
        client.send(data + waypost.chat("sim/demo", after))
        answers, synchronous = read_all(client, after, head_only=case.data.startswith(b"HEAD"))
    statuses = [answer.status for answer in answers if answer.status != 100]
    assert times_seen(simulator, evil) == 0
    assert times_seen(simulator, after) == synchronous
    first = next((answer for answer in answers if answer.status != 100), None)
    if case.outcome == "served":
        assert statuses == [200], answers
        assert nonce in first.text
        assert times_seen(simulator, nonce) == 1
    elif case.outcome == "refused":
        assert statuses and all(400 <= status < 500 or status in (501, 505) for status in statuses), answers
        assert not synchronous, "a refused connection goes on"
        assert times_seen(simulator, nonce) == 0
    else:
        assert statuses[:1] == [case.outcome], answers
        assert times_seen(simulator, nonce) == 0


def read_all(client: Client, after: str, *, head_only: bool) -> tuple[list[Answer], bool]:
    """Every answer until the server closes, or up to that to the good request behind the case, which is left out."""
    answers: list[Answer] = []
    while client.unread or client.receive():
        answer = client.answer(to_head=head_only and not answers)
        if answer.status == 200 and answer.body.startswith(b"{") and after in answer.text:
            return answers, True
        answers.append(answer)
    return answers, False
