"""What an upstream says a request used, in every accent of OpenAI's format; and estimates for when it says nothing.

Accents, by where they were met:

- OpenAI: `prompt_tokens` has the cached, audio and image tokens in it, `completion_tokens` the reasoning
- xAI: the reasoning is not in `completion_tokens`, only in the total
- Google's compatible address: reasoning is named nowhere, and in the total alone
- OpenRouter: `cache_write_tokens` beside `cached_tokens`, and both may name the same tokens
- DeepSeek: `prompt_cache_hit_tokens`; Mistral: `num_cached_tokens`; Moonshot and Hugging Face: `cached_tokens`
- Perplexity's deep research: `reasoning_tokens` and `citation_tokens` beside everything, charged, and in no total
- routers that speak of Anthropic's models: `input_tokens` and `output_tokens`, `cache_read_input_tokens`,
  `cache_creation_input_tokens` and `cache_creation`, where Anthropic's own input does not have the caches in it
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from waypost.records import Usage

MOST: Final = 100_000_000
"""Tokens that one request may use: whatever is above is an error of the upstream's, not a count."""

HIDDEN: Final = 262_144
"""Tokens that a total may have beyond what is named: no model reasons for longer in one answer."""


class Details(msgspec.Struct):
    """What prompt or completion are made of."""

    cached_tokens: Any = 0
    cache_write_tokens: Any = 0
    cache_creation_tokens: Any = 0
    audio_tokens: Any = 0
    image_tokens: Any = 0
    reasoning_tokens: Any = 0
    thinking_tokens: Any = 0


class Creation(msgspec.Struct):
    """Anthropic's cache writes by how long they last."""

    ephemeral_5m_input_tokens: Any = 0
    ephemeral_1h_input_tokens: Any = 0


class Spoken(msgspec.Struct):
    """A usage object. Counts may be anything that JSON has."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    input_tokens: Any = None
    output_tokens: Any = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None
    prompt_cache_hit_tokens: Any = 0
    cached_tokens: Any = 0
    num_cached_tokens: Any = 0
    cache_read_input_tokens: Any = 0
    cache_creation_input_tokens: Any = 0
    cache_creation: Creation | None = None
    claude_cache_creation_5_m_tokens: Any = 0
    claude_cache_creation_1_h_tokens: Any = 0
    reasoning_tokens: Any = 0
    citation_tokens: Any = 0


class Senseless(ValueError):
    """A count that is none."""


_decode = msgspec.json.Decoder(Spoken).decode
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
NO_DETAILS: Final = Details()
OBJECTS: Final = frozenset({"cache_creation", *(name for name in Spoken.__struct_fields__ if "details" in name)})


def parse_usage(raw: bytes) -> Usage | None:
    """A usage object's JSON → disjoint counts, none below zero, their sum the upstream's total where it has one.

    None if it says nothing that can be believed: it is no object, has a prompt or a completion that is no whole number
    from 0 to `MOST`, or nothing but zeros. What is wrong in the details alone is as if it were not there, and no
    detail is larger than what it is a part of.
    """
    try:
        spoken = _decode(raw)
    except msgspec.ValidationError:
        loose = parse_loosely(raw)
        if loose is None:
            return None
        spoken = loose
    except UNREADABLE:
        return None
    if is_plain(spoken):
        return Usage(spoken.prompt_tokens, output=spoken.completion_tokens)
    try:
        return understood(spoken)
    except Senseless:
        return None


def parse_loosely(raw: bytes) -> Spoken | None:
    """One whose details are no objects: then it has none. None if it is no object itself."""
    try:
        fields = msgspec.json.decode(raw)
    except UNREADABLE:
        return None
    if not isinstance(fields, dict):
        return None
    spoken = {name: value for name, value in fields.items() if name not in OBJECTS or isinstance(value, dict)}
    return msgspec.convert(spoken, Spoken)


def is_plain(spoken: Spoken) -> bool:
    """Is there nothing but a prompt, a completion and their total? Most have no more: this is their short way."""
    prompt, completion = spoken.prompt_tokens, spoken.completion_tokens
    into, out = spoken.prompt_tokens_details, spoken.completion_tokens_details
    return (
        type(prompt) is int
        and type(completion) is int
        and 0 < prompt <= MOST
        and 0 <= completion <= MOST
        and prompt + completion == spoken.total_tokens
        and (
            into is None
            or not (
                into.cached_tokens
                or into.cache_write_tokens
                or into.cache_creation_tokens
                or into.audio_tokens
                or into.image_tokens
            )
        )
        and (out is None or not (out.reasoning_tokens or out.thinking_tokens or out.audio_tokens or out.image_tokens))
        and not (
            spoken.prompt_cache_hit_tokens
            or spoken.cached_tokens
            or spoken.num_cached_tokens
            or spoken.cache_read_input_tokens
            or spoken.cache_creation_input_tokens
            or spoken.cache_creation
            or spoken.claude_cache_creation_5_m_tokens
            or spoken.claude_cache_creation_1_h_tokens
            or spoken.reasoning_tokens
            or spoken.citation_tokens
            or spoken.input_tokens_details
            or spoken.output_tokens_details
        )
    )


def understood(spoken: Spoken) -> Usage | None:
    """What was meant. Raises `Senseless`."""
    prompt = first(spoken.prompt_tokens, spoken.input_tokens)
    completion = first(spoken.completion_tokens, spoken.output_tokens)
    total = part(spoken.total_tokens)
    if prompt is None and completion is not None and total > completion:
        prompt = total - completion
    elif completion is None and prompt is not None and total > prompt:
        completion = total - prompt
    if prompt is None or completion is None or prompt + completion == 0:
        return None
    into = spoken.prompt_tokens_details or spoken.input_tokens_details or NO_DETAILS
    out = spoken.completion_tokens_details or spoken.output_tokens_details or NO_DETAILS

    read, write_5m, write_1h = caches(spoken, into)
    within = read + write_5m + write_1h
    if within and are_beside(spoken, prompt, completion, total, within):
        prompt += within
    reasoning = part(out.reasoning_tokens or out.thinking_tokens)
    reasoning = reasoning or part(spoken.reasoning_tokens)
    if spoken.citation_tokens:
        prompt, completion = prompt + part(spoken.citation_tokens), completion + reasoning
    else:
        hidden = total - prompt - completion if total else reasoning if reasoning > completion else 0
        if hidden > 0 and (hidden <= HIDDEN or hidden == reasoning):
            reasoning = reasoning if hidden == reasoning else reasoning + hidden
            completion += hidden
    return divided(prompt, (read, write_5m, write_1h), into, completion, reasoning, out)


def caches(spoken: Spoken, into: Details) -> tuple[int, int, int]:
    """Tokens read from a cache, written for five minutes, and written for an hour."""
    read = (
        part(into.cached_tokens)
        or part(spoken.prompt_cache_hit_tokens)
        or part(spoken.cached_tokens)
        or part(spoken.num_cached_tokens)
        or part(spoken.cache_read_input_tokens)
    )
    hour = part(spoken.claude_cache_creation_1_h_tokens)
    five = part(spoken.claude_cache_creation_5_m_tokens)
    if spoken.cache_creation is not None:
        hour = part(spoken.cache_creation.ephemeral_1h_input_tokens)
        five = part(spoken.cache_creation.ephemeral_5m_input_tokens)
    written = (
        part(into.cache_write_tokens) or part(into.cache_creation_tokens) or part(spoken.cache_creation_input_tokens)
    )
    return read, max(written - hour, five), hour


def are_beside(spoken: Spoken, prompt: int, completion: int, total: int, within: int) -> bool:
    """Are the caches no part of the prompt? The total tells; without one, Anthropic's names do."""
    if total in (prompt + completion, prompt + completion + within):
        return total != prompt + completion
    return not spoken.prompt_tokens and bool(spoken.cache_read_input_tokens or spoken.cache_creation_input_tokens)


def divided(
    prompt: int, cached: tuple[int, int, int], into: Details, completion: int, reasoning: int, out: Details
) -> Usage:
    """Each token once: a part gets what the parts before it have left."""
    fresh = prompt
    fresh -= (read := min(fresh, cached[0]))
    fresh -= (write_5m := min(fresh, cached[1]))
    fresh -= (write_1h := min(fresh, cached[2]))
    fresh -= (audio := min(fresh, part(into.audio_tokens)))
    fresh -= (image := min(fresh, part(into.image_tokens)))
    output = completion
    output -= (reasoned := min(output, reasoning))
    output -= (spoken := min(output, part(out.audio_tokens)))
    output -= (drawn := min(output, part(out.image_tokens)))
    return Usage(fresh, read, write_5m, write_1h, audio, image, output, reasoned, spoken, drawn)


def first(*values: Any) -> int | None:
    """The first count that is not zero, zero if all are, None if there is none. Raises `Senseless`."""
    found = None
    for value in values:
        if value is not None:
            found = whole(value)
            if found:
                return found
    return found


def part(value: Any) -> int:
    """A count that may be missing, and counts nothing if it is none."""
    if type(value) is int:
        return value if 0 < value <= MOST else 0
    try:
        return whole(value)
    except Senseless:
        return 0


def whole(value: Any) -> int:
    """A count, which some write as 12.0. Raises `Senseless`."""
    if (type(value) is int or (type(value) is float and value.is_integer())) and 0 <= value <= MOST:
        return int(value)
    raise Senseless


# Estimates

INLINE: Final = 4096
"""Bytes of an inline file that matters; a body is probed at such distances before it is searched."""

FILE: Final = 800
"""Tokens of an inline image, sound or document, whatever its size: about what a picture of 1024 × 1024 takes."""

SAMPLES: Final = 8
SAMPLE: Final = 256
"""A longer text is judged by so many samples of so many bytes."""

LETTERS: Final = bytes(range(65, 91)) + bytes(range(97, 123))
ASCII: Final = bytes(range(128))


AROUND: Final = 10
"""Tokens' worth of JSON that stands around every request, and counts for nothing."""


def estimate_tokens(body: bytes) -> int:
    """Tokens of a prompt, by the look of its request's JSON: no tokenizer, so only roughly; at least 1.

    English takes a token for two spaces and another for nine letters; figures and signs have more tokens to a byte,
    letters beyond ASCII fewer again.
    """
    text, files = text_and_files(body)
    return max(1, weigh_text(text) // 100 - AROUND) + files * FILE


def weigh(part: bytes) -> int:
    """Hundredths of a token that a part of a request's JSON adds to the estimate; 0 or more."""
    text, files = text_and_files(part)
    return max(0, weigh_text(text)) + files * FILE * 100


def weighs_at_most(text: bytes) -> int | None:
    """No less than `weigh` of it, and of all parts of it together, at a glance; None where there may be files."""
    if text.find(b";base64,") >= 0 or text.find(b'"input_audio"') >= 0:
        return None
    return 48 * len(text)  # what a space has, and nothing has more


def text_and_files(body: bytes) -> tuple[bytes, int]:
    """What is to be weighed, and how many files were in it."""
    return without_files(body) if len(body) > INLINE and may_have_files(body) else (body, 0)


def weigh_text(text: bytes) -> int:
    """Hundredths of a token."""
    size = len(text)
    if size > SAMPLES * SAMPLE:
        step = (size - SAMPLE) // (SAMPLES - 1)
        text = b"".join([text[start : start + SAMPLE] for start in range(0, SAMPLES * step, step)])
    rest = text.translate(None, LETTERS)
    blanks = rest.count(b" ")
    hundredths = 11 * (len(text) - len(rest)) + 48 * blanks + 35 * (len(rest) - blanks)
    if not rest.isascii():
        hundredths -= 8 * len(rest.translate(None, ASCII))
    if rest.find(b"\\") >= 0:
        hundredths -= 90 * text.count(b"\\u")  # a letter in six bytes
    return hundredths * size // len(text) if size > len(text) else hundredths


def may_have_files(body: bytes) -> bool:
    """Is there a stretch with neither blanks nor quotes, as base64 has? A search of every body would cost more."""
    for at in range(INLINE, len(body), INLINE):
        piece = body[at : at + 48]
        if b'"' not in piece and b" " not in piece and piece.isascii():
            return True
    return False


def without_files(body: bytes) -> tuple[bytes, int]:
    """A body without its inline files, and how many they are: `data:` addresses, and the data of `input_audio`."""
    pieces: list[bytes] = []
    files = kept = 0
    audio = b'"input_audio"' in body
    at = body.find(b";base64,")
    sound = body.find(b'"data"') if audio else -1
    while at >= 0 or sound >= 0:
        if at >= 0 and (sound < 0 or at < sound):
            start = at + 8
        else:
            start = body.find(b'"', sound + 6) + 1
            if start == 0:
                break
        end = body.find(b'"', start)
        if end < 0:
            break
        pieces.append(body[kept:start])
        kept = end
        files += 1
        at = body.find(b";base64,", end) if at >= 0 else -1
        sound = body.find(b'"data"', end) if audio else -1
    if not files:
        return body, 0
    pieces.append(body[kept:])
    return b"".join(pieces), files


def estimate_completion(text_bytes: int) -> int:
    """Tokens of a completion whose text, arguments and reasoning took so many bytes of UTF-8: one for 4.2 of them."""
    return -(-text_bytes * 5 // 21)
