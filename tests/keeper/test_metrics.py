"""Metrics from the ledger's batches."""

import re

import msgspec

from waypost.keeper.metrics import MODELS, Gauges, Metrics
from waypost.keeper.pairing import Batch
from waypost.records import Attempted, Opened, Settled, Tally, Usage

NOTHING, QUIET = Usage(), Gauges()


def settled(model="m", *, plan="free", code="", status=200, provider="lab", requests=1, cost=0, usage=NOTHING, **times):
    opened = Opened(b"0" * 26, 0, 1, 1, plan, model, False, (), 3, 0)
    return opened, Settled(
        b"0" * 26, 1, status, code, provider, "um", 1, requests, 0, cost, "", usage, False,
        times.get("first_token", 0), times.get("latency", 0), b"",
    )  # fmt: skip


def page(*pairs, attempted=(), tallies=(), gauges=QUIET):
    metrics = Metrics(lambda: gauges)
    batch = Batch()
    batch.settled += pairs
    batch.attempted += attempted
    batch.tallies += tallies
    metrics.on_batch(batch)
    return metrics.render().decode()


def series(text, name):
    """Label text → value."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def test_requests_tokens_and_money():
    usage = Usage(fresh=10, cache_read=4, output=3, reasoning=2)
    text = page(
        settled(cost=1_500_000_000, usage=usage),
        settled(cost=500_000_000, usage=usage),
        settled(code="PROVIDER_ERROR", status=502, requests=0, usage=usage),
        settled(code="CLIENT_GONE", status=0, provider="", requests=0),
    )
    assert series(text, "waypost_requests_total") == {
        'model="m",plan="free",provider="lab",status="200"': 2,
        'model="m",plan="free",provider="lab",status="502"': 1,
        'model="m",plan="free",provider="",status="0"': 1,
    }
    assert series(text, "waypost_errors_total") == {'code="CLIENT_GONE"': 1}
    assert series(text, "waypost_cost_usd_total") == {'model="m",plan="free",provider="lab"': 2.0}
    tokens = series(text, "waypost_tokens_total")
    assert tokens == {
        f'kind="{kind}",model="m",provider="lab"': count
        for kind, count in {"fresh": 20, "cache_read": 8, "output": 6, "reasoning": 4}.items()
    }


def test_answers_given_again_are_counted_by_model():
    opened, line = settled(provider="")
    again = (opened, msgspec.structs.replace(line, source=b"1" * 26))
    text = page(settled(), again, again)
    assert series(text, "waypost_requests_repeated_total") == {'model="m"': 2}


def test_histograms():
    text = page(
        settled(latency=50, first_token=0),
        settled(latency=51, first_token=51),
        settled(latency=700_000, first_token=1000),
    )
    buckets = series(text, "waypost_latency_seconds_bucket")
    assert buckets['le="0.05",model="m",provider="lab"'] == 1  # a bound belongs to its bucket
    assert buckets['le="0.1",model="m",provider="lab"'] == 2
    assert buckets['le="600.0",model="m",provider="lab"'] == 2
    assert buckets['le="+Inf",model="m",provider="lab"'] == 3
    assert series(text, "waypost_latency_seconds_count") == {'model="m",provider="lab"': 3}
    assert series(text, "waypost_latency_seconds_sum") == {'model="m",provider="lab"': 700.101}
    assert series(text, "waypost_first_token_seconds_count") == {'model="m",provider="lab"': 2}


def test_attempts_and_what_workers_tally():
    attempts = [Attempted(b"0" * 26, 1, 0, "lab", "um", "PROVIDER_TIMEOUT", 0, 5)] * 2
    tallies = [Tally(0, {"AUTHENTICATION_ERROR": 3}, 2, 7), Tally(1, {"AUTHENTICATION_ERROR": 1}, 1, 0)]
    text = page(attempted=attempts, tallies=tallies)
    assert series(text, "waypost_attempts_failed_total") == {'code="PROVIDER_TIMEOUT",provider="lab"': 2}
    assert series(text, "waypost_errors_total") == {'code="AUTHENTICATION_ERROR"': 4}
    assert series(text, "waypost_lease_calls_total") == {"": 3}
    assert series(text, "waypost_key_look_ups_total") == {"": 7}


def test_gauges():
    text = page(gauges=Gauges(4, 8 << 20, 1.5, False))
    names = ("open_requests", "journal_bytes", "journal_lag_seconds", "books_ready")
    assert [series(text, f"waypost_{name}") for name in names] == [{"": 4}, {"": 8 << 20}, {"": 1.5}, {"": 0}]


def test_a_model_is_named_once_it_has_answered():
    text = page(settled("unknown", code="PROVIDER_ERROR", status=502), settled("known"), settled("known", status=502))
    assert {labels.split('"')[1] for labels in series(text, "waypost_requests_total")} == {"other", "known"}


def test_callers_cannot_make_series_without_end():
    text = page(*(settled(f"m{number}") for number in range(MODELS + 200)))
    requests = series(text, "waypost_requests_total")
    assert len(requests) == MODELS + 1
    assert requests['model="other",plan="free",provider="lab",status="200"'] == 200


def test_a_name_cannot_break_the_page():
    text = page(settled('a"} 1\nwaypost_evil 5\n\\'))
    assert "\nwaypost_evil" not in text
    assert list(series(text, "waypost_requests_total").values()) == [1]
