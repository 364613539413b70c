"""Usage in every accent: what upstreams wrote and what it means; and how far estimates are off."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.formats.usage import (
    AROUND,
    FILE,
    INLINE,
    MOST,
    estimate_completion,
    estimate_tokens,
    parse_usage,
    weigh,
    weighs_at_most,
)
from waypost.records import Usage

WIRE = pathlib.Path(__file__).parents[3] / "shared" / "wire"
recorded = pytest.mark.skipif(not WIRE.is_dir(), reason="no recorded exchanges beside the project (../shared/wire)")

OPENAI = {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}


def understood(**fields: Any) -> Usage | None:
    return parse_usage(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("fields", "usage"),
    [
        pytest.param(OPENAI, Usage(19, output=10), id="plain"),
        pytest.param(
            OPENAI
            | {
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "accepted_prediction_tokens": 3},
            },
            Usage(19, output=10),
            id="openai, details of zeros",
        ),
        pytest.param(
            {
                "prompt_tokens": 2006,
                "completion_tokens": 300,
                "total_tokens": 2306,
                "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 11, "image_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 128, "audio_tokens": 40, "image_tokens": 2},
            },
            Usage(70, 1920, 0, 0, 11, 5, 130, 128, 40, 2),
            id="openai, everything",
        ),
        pytest.param(
            OPENAI | {"prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 12}},
            Usage(4, 3, 12, output=10),
            id="openai and openrouter, cache writes",
        ),
        pytest.param(
            OPENAI | {"prompt_tokens_details": {"cached_tokens": 18, "cache_write_tokens": 18}},
            Usage(0, 18, 1, output=10),
            id="openrouter, the same tokens read and written",
        ),
        pytest.param(
            OPENAI | {"prompt_cache_hit_tokens": 12, "prompt_cache_miss_tokens": 7},
            Usage(7, 12, output=10),
            id="deepseek",
        ),
        pytest.param(OPENAI | {"num_cached_tokens": 12}, Usage(7, 12, output=10), id="mistral"),
        pytest.param(OPENAI | {"cached_tokens": 12}, Usage(7, 12, output=10), id="moonshot"),
        pytest.param(OPENAI | {"queue_time": 0.2, "total_time": 0.3}, Usage(19, output=10), id="groq"),
        pytest.param(
            OPENAI | {"cost": 0.1, "is_byok": False, "cost_details": {"upstream_inference_cost": None}},
            Usage(19, output=10),
            id="openrouter, with its cost",
        ),
        pytest.param(
            {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}
            | {"completion_tokens_details": {"reasoning_tokens": 94}},
            Usage(32, output=9, reasoning=94),
            id="xai, reasoning beside the completion",
        ),
        pytest.param(
            {"prompt_tokens": 32, "completion_tokens": 9} | {"completion_tokens_details": {"reasoning_tokens": 94}},
            Usage(32, output=9, reasoning=94),
            id="reasoning that cannot be a part, without a total",
        ),
        pytest.param(
            {"prompt_tokens": 43, "completion_tokens": 10, "total_tokens": 53}
            | {"completion_tokens_details": {"reasoning_tokens": 11}},
            Usage(43, reasoning=10),
            id="more reasoning than completion",
        ),
        pytest.param(
            {"prompt_tokens": 66, "completion_tokens": 6, "total_tokens": 100},
            Usage(66, output=6, reasoning=28),
            id="google, reasoning in the total alone",
        ),
        pytest.param(
            {"prompt_tokens": 33, "completion_tokens": 70, "total_tokens": 103}
            | {"citation_tokens": 200, "num_search_queries": 18, "reasoning_tokens": 740},
            Usage(233, output=70, reasoning=740),
            id="perplexity, citations and reasoning beside everything",
        ),
        pytest.param(
            {"input_tokens": 19, "output_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 7},
            Usage(19, 100, 7, output=10),
            id="anthropic's names, the caches beside the input",
        ),
        pytest.param(
            {"input_tokens": 19, "output_tokens": 10, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 9}
            | {"cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5}},
            Usage(19, 0, 4, 5, output=10),
            id="anthropic's names, for an hour",
        ),
        pytest.param(
            {"prompt_tokens": 126, "completion_tokens": 10, "total_tokens": 136}
            | {"cache_read_input_tokens": 100, "cache_creation_input_tokens": 7},
            Usage(19, 100, 7, output=10),
            id="a router, the caches in the prompt",
        ),
        pytest.param(
            {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 136}
            | {"cache_read_input_tokens": 100, "cache_creation_input_tokens": 7},
            Usage(19, 100, 7, output=10),
            id="a router, the caches in the total alone",
        ),
        pytest.param(
            {"input_tokens": 19, "output_tokens": 10, "total_tokens": 29, "input_tokens_details": {"cached_tokens": 4}}
            | {"output_tokens_details": {"reasoning_tokens": 6}},
            Usage(15, 4, output=4, reasoning=6),
            id="the names of responses",
        ),
        pytest.param(
            OPENAI
            | {"input_tokens": 0, "output_tokens": 0, "input_tokens_details": None}
            | {"claude_cache_creation_5_m_tokens": 2, "claude_cache_creation_1_h_tokens": 3},
            Usage(14, 0, 2, 3, output=10),
            id="a router, zeros in other names",
        ),
        pytest.param({"prompt_tokens": 19, "total_tokens": 29}, Usage(19, output=10), id="no completion but a total"),
        pytest.param({"completion_tokens": 10, "total_tokens": 29}, Usage(19, output=10), id="no prompt but a total"),
        pytest.param({"prompt_tokens": 19, "completion_tokens": 10}, Usage(19, output=10), id="no total"),
        pytest.param(OPENAI | {"total_tokens": 7}, Usage(19, output=10), id="a total that is too small"),
        pytest.param(OPENAI | {"total_tokens": MOST}, Usage(19, output=10), id="a total beyond all reason"),
        pytest.param(OPENAI | {"total_tokens": "29"}, Usage(19, output=10), id="a total that is text"),
        pytest.param(
            {"prompt_tokens": 0, "completion_tokens": 10, "total_tokens": 10}, Usage(output=10), id="no prompt"
        ),
        pytest.param(
            {"prompt_tokens": 19, "completion_tokens": 0, "total_tokens": 19}, Usage(19), id="an empty answer"
        ),
        pytest.param(
            {"prompt_tokens": 19.0, "completion_tokens": 10.0, "total_tokens": 29.0}, Usage(19, output=10), id="floats"
        ),
    ],
)
def test_accents(fields: dict[str, Any], usage: Usage) -> None:
    assert understood(**fields) == usage


@pytest.mark.parametrize("wrong", [-1, 1.5, 1e30, 10**30, "19", True, [], {}, MOST + 1])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_counts_that_cannot_be_believed(name: str, wrong: object) -> None:
    assert understood(**OPENAI | {name: wrong}) is None


@pytest.mark.parametrize("wrong", [-1, 1.5, 1e30, 10**30, "19", True, None, [], {}])
def test_details_that_cannot_be_believed_are_not_there(wrong: object) -> None:
    for details in ({"cached_tokens": wrong, "audio_tokens": 2}, wrong):
        usage = understood(**OPENAI, prompt_tokens_details=details)
        assert usage in (Usage(19, output=10), Usage(17, audio_input=2, output=10))
    for details in ({"reasoning_tokens": wrong}, wrong):
        assert understood(**OPENAI, completion_tokens_details=details) == Usage(19, output=10)
    for name in ("cached_tokens", "num_cached_tokens", "cache_read_input_tokens", "cache_creation", "reasoning_tokens"):
        assert understood(**OPENAI | {name: wrong}) == Usage(19, output=10), name


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"null", b"{}", b"[]", b"7", b'"x"', b"{", b"\xff", b'"\xff"', b'{"prompt_tokens":null}'),
        *(b'{"total_tokens":29}', b'{"prompt_tokens":19}', b'{"prompt_tokens":19,"completion_tokens":NaN}'),
        b'{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}',
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"prompt_tokens_details":' + b"[" * 100_000, id="deep inside"),
    ],
)
def test_what_says_nothing(raw: bytes) -> None:
    assert parse_usage(raw) is None


names = [
    *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"),
    *("cached_tokens", "num_cached_tokens", "prompt_cache_hit_tokens", "reasoning_tokens", "citation_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens", "claude_cache_creation_1_h_tokens"),
]
anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
    | st.integers(0, 300)
)
parts = st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "reasoning_tokens"]),
    anything,
)
objects = st.dictionaries(
    st.sampled_from(["prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "cache_creation"]),
    anything | parts,
)


@given(st.dictionaries(st.sampled_from(names), anything), objects)
def test_whatever_comes_no_count_is_below_zero(fields: dict[str, Any], details: dict[str, Any]) -> None:
    usage = parse_usage(json.dumps(fields | details).encode())
    if usage is not None:
        counts = msgspec.structs.astuple(usage)
        assert all(type(count) is int and 0 <= count <= 5 * MOST for count in counts) and sum(counts) > 0


small = st.integers(0, 1000)


@given(small, small, parts, parts)
def test_where_the_total_fits_the_sum_is_the_total(prompt: int, completion: int, into: Any, out: Any) -> None:
    usage = understood(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=into,
        completion_tokens_details=out,
    )
    if prompt + completion == 0:
        assert usage is None
    else:
        assert usage is not None and (usage.prompt, usage.completion) == (prompt, completion)


# What providers really wrote


def exchanges() -> Iterator[tuple[str, bytes, dict[str, Any], int]]:
    """Of each recorded chat that had usage: provider, the request, the usage object, bytes of the answer's text."""
    for path in sorted(WIRE.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            exchange = json.loads(line)
            if "chat/completions" in exchange.get("url", "") and exchange["status"] == 200:
                usages, text = read_answer(exchange["response"])
                request = json.dumps(exchange["request"], ensure_ascii=False, separators=(",", ":")).encode()
                yield from ((path.stem, request, usage, text) for usage in usages)


def read_answer(body: str) -> tuple[list[dict[str, Any]], int]:
    """All usage objects of an answer, and how many bytes its text and arguments have."""
    pieces = [body] if body.lstrip().startswith("{") else [row[5:] for row in body.splitlines() if row[:5] == "data:"]
    usages, text = [], 0
    for piece in pieces:
        if piece.strip() == "[DONE]":
            continue
        answer = json.loads(piece)
        usages += [found for found in (answer.get("usage"), (answer.get("x_groq") or {}).get("usage")) if found]
        for choice in answer.get("choices") or []:
            message = choice.get("message") or choice.get("delta") or {}
            calls = [call.get("function") or {} for call in message.get("tool_calls") or []]
            said = [message.get("content"), message.get("reasoning_content"), message.get("reasoning")]
            said += [value for call in calls for value in (call.get("name"), call.get("arguments"))]
            text += sum(len(value.encode()) for value in said if isinstance(value, str))
    return usages, text


@recorded
def test_every_recorded_usage_is_understood() -> None:
    seen = 0
    for provider, _, spoken, _ in exchanges():
        seen += 1
        usage = parse_usage(json.dumps(spoken).encode())
        assert usage is not None, (provider, spoken)
        assert min(msgspec.structs.astuple(usage)) >= 0
        assert usage.prompt + usage.completion == spoken["total_tokens"], (provider, spoken)
        assert usage.prompt == spoken["prompt_tokens"], (provider, spoken)
        into = spoken.get("prompt_tokens_details") or {}
        cached = into.get("cached_tokens") or spoken.get("num_cached_tokens") or spoken.get("cached_tokens") or 0
        assert usage.cache_read == cached, (provider, spoken)
        reasoning = (spoken.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
        assert usage.reasoning >= min(reasoning, spoken["completion_tokens"]), (provider, spoken)
    assert seen > 400


@recorded
def test_how_far_estimates_of_recorded_texts_are_off() -> None:
    """Without a tokenizer: half of the longer prompts within an eighth, nine in ten within a third."""
    prompts = {
        request: spoken["prompt_tokens"]
        for provider, request, spoken, _ in exchanges()
        if not any(word in request for word in (b'"tools"', b"base64", b"_url", b'"file"', b"response_format"))
        and spoken["prompt_tokens"] >= 100
        and len(request) < 40 * spoken["prompt_tokens"]
        and len(request) > 2 * spoken["prompt_tokens"]  # or the upstream put a prompt of its own before it
    }
    assert len(prompts) > 20
    off = sorted(abs(estimate_tokens(request) - true) / true for request, true in prompts.items())
    assert statistics.median(off) < 0.125 and off[len(off) * 9 // 10] < 0.34, off
    said = [
        (text, spoken["completion_tokens"])
        for _, _, spoken, text in exchanges()
        if spoken["completion_tokens"] > 100
        and text > 100
        and not (spoken.get("completion_tokens_details") or {}).get("reasoning_tokens")
    ]
    assert len(said) > 20
    assert statistics.median(abs(estimate_completion(text) - true) / true for text, true in said) < 0.15


# Estimates


def body(content: object) -> bytes:
    message = {"role": "user", "content": content}
    return json.dumps({"model": "m", "messages": [message]}, ensure_ascii=False, separators=(",", ":")).encode()


def test_estimates_grow_with_the_text() -> None:
    text = "The quick brown fox jumps over the lazy dog. "
    found = [estimate_tokens(body(text * count)) for count in (1, 10, 100, 1000, 10_000)]
    assert found == sorted(found) and 8_000 < found[3] < 12_000 and 80_000 < found[4] < 120_000
    assert estimate_tokens(b"") == estimate_tokens(b"{}") == 1
    assert estimate_completion(0) == 0 and estimate_completion(1) == 1 and estimate_completion(4200) == 1000


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b" " * 3000, b"\\u" * 2000, b"word " * 999, b'"n":1,' * 600]))
)
def test_parts_weigh_what_the_whole_is_estimated_at(parts: list[bytes]) -> None:
    weight = sum(map(weigh, parts))
    most = weighs_at_most(b"".join(parts))
    assert weight >= 0 and (most is None or weight <= most)
    if sum(map(len, parts)) <= 2000 and all(b"\\" not in part for part in parts):
        assert abs(max(1, weight // 100 - AROUND) - estimate_tokens(b"".join(parts))) <= 1


def test_files_weigh_more_than_their_bytes_show() -> None:
    files = b'{"type":"input_audio","data":"%b"}' % (b"A" * 2 * INLINE)
    pictures = b'{"url":"data:image/png;base64,%b"}' % (b"A" * 2 * INLINE)
    for part in (files, pictures):
        assert weighs_at_most(part) is None and FILE * 100 <= weigh(part) < FILE * 100 + 2000


def test_escapes_and_other_scripts_are_not_counted_by_the_byte() -> None:
    text = "今天天气很好，我们去公园散步吧。" * 20
    plain = estimate_tokens(body(text))
    escaped = estimate_tokens(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())
    assert len(text) * 0.5 < plain < len(text) * 1.2
    assert abs(escaped - plain) < plain * 0.3


@pytest.mark.parametrize("size", [5_000, 100_000, 3 << 20])
def test_inline_files_count_flat(size: int) -> None:
    text = "Describe it in a few words. " * 20
    alone = estimate_tokens(body([{"type": "text", "text": text}]))
    address = "data:image/png;base64," + "iVBORw0KGgo" * (size // 11)
    for file in (
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "input_audio", "input_audio": {"data": "UklGRiQA" * (size // 8), "format": "wav"}},
        {"type": "input_audio", "input_audio": {"format": "wav", "data": "UklGRiQA" * (size // 8)}},
        {"type": "file", "file": {"filename": "x.pdf", "file_data": "data:application/pdf;base64," + "A" * size}},
    ):
        estimate = estimate_tokens(body([{"type": "text", "text": text}, file]))
        assert alone + FILE <= estimate < alone + FILE + 80, file["type"]
    both = estimate_tokens(body([{"type": "image_url", "image_url": {"url": address}}] * 3 + [{"text": text}]))
    assert alone + 3 * FILE <= both < alone + 3 * FILE + 150


def test_a_file_that_does_not_end_is_counted_as_what_it_is() -> None:
    cut = body([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}])[:-100]
    assert estimate_tokens(cut) > 0
    assert estimate_tokens(b'{"input_audio"' + b"A" * 10_000 + b'"data"') > 0
