"""What Bedrock's Converse puts on the wire: whole answers, the events of a stream, usage, exceptions.

Source: the service model of bedrock-runtime (ConverseResponse, ConverseStreamOutput, ContentBlock, TokenUsage).
"""

from __future__ import annotations

import msgspec

from waypost.completion import UsageReport
from waypost.formats.format import EMPTY_OBJECT
from waypost.records import Usage

ABSENT = msgspec.Raw(b"null")


class Named(msgspec.Struct, frozen=True, rename="camel"):
    """What a block begins with: a call, a result of a tool of Bedrock's own, or a picture."""

    tool_use_id: str = ""
    name: str = ""
    type: str = ""
    status: str = ""
    input: msgspec.Raw = EMPTY_OBJECT
    content: list[msgspec.Raw] = []
    format: str = ""
    source: Source | None = None


class Source(msgspec.Struct, frozen=True):
    """Of a picture: base64."""

    bytes: str = ""


class WebLocation(msgspec.Struct, frozen=True):
    """`location.web`."""

    url: str = ""


class Location(msgspec.Struct, frozen=True):
    """Where a citation points; only pages have a URL."""

    web: WebLocation | None = None


class Quoted(msgspec.Struct, frozen=True):
    """A piece of text."""

    text: str = ""


class Citation(msgspec.Struct, frozen=True, rename="camel"):
    """One of a block's citations."""

    title: str | None = None
    location: Location | None = None
    source_content: list[Quoted] = []


class CitationsContent(msgspec.Struct, frozen=True):
    """Words that rest on something."""

    content: list[Quoted] = []
    citations: list[msgspec.Raw] = []


class ReasoningText(msgspec.Struct, frozen=True):
    """Reasoning of a whole answer."""

    text: str = ""
    signature: str = ""


class Reasoning(msgspec.Struct, frozen=True, rename="camel"):
    """Of a whole block, which has `reasoning_text`, and of a delta, which has its fields."""

    reasoning_text: ReasoningText | None = None
    redacted_content: str = ""
    text: str = ""
    signature: str = ""


class Block(msgspec.Struct, frozen=True, rename="camel"):
    """One block of content, of any kind: exactly one field is there."""

    text: str | None = None
    tool_use: Named | None = None
    tool_result: Named | None = None
    image: Named | None = None
    reasoning_content: Reasoning | None = None
    citations_content: CitationsContent | None = None


class ToolUseDelta(msgspec.Struct, frozen=True):
    """More of a call's arguments."""

    input: str = ""


class Delta(msgspec.Struct, frozen=True, rename="camel"):
    """More of a block, of any kind."""

    text: str | None = None
    tool_use: ToolUseDelta | None = None
    tool_result: list[msgspec.Raw] | None = None
    reasoning_content: Reasoning | None = None
    citation: msgspec.Raw = ABSENT
    image: Named | None = None


class StreamEvent(msgspec.Struct, frozen=True, rename="camel"):
    """The payload of any event."""

    content_block_index: int = 0
    delta: Delta | None = None
    start: Block | None = None
    stop_reason: str = ""
    usage: msgspec.Raw = ABSENT


class Message(msgspec.Struct, frozen=True):
    """`output.message`."""

    content: list[msgspec.Raw] = []


class Output(msgspec.Struct, frozen=True):
    """`output`."""

    message: Message


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """A whole answer."""

    output: Output
    stop_reason: str
    usage: msgspec.Raw = ABSENT


class CacheDetail(msgspec.Struct, frozen=True, rename="camel"):
    """How much was written to a cache of one lifetime."""

    ttl: str = ""
    input_tokens: int = 0


class UsageFields(msgspec.Struct, frozen=True, rename="camel"):
    """`usage`: input_tokens is without cache reads and writes."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    cache_details: list[CacheDetail] | None = None


class ExceptionFields(msgspec.Struct, frozen=True, rename="camel"):
    """The payload of an exception."""

    message: str = ""
    original_message: str = ""


decode_answer = msgspec.json.Decoder(Answer).decode
decode_event = msgspec.json.Decoder(StreamEvent).decode
decode_block = msgspec.json.Decoder(Block).decode
decode_citation = msgspec.json.Decoder(Citation).decode
decode_usage = msgspec.json.Decoder(UsageFields).decode
decode_exception = msgspec.json.Decoder(ExceptionFields).decode


def count(usage: msgspec.Raw) -> UsageReport:
    """`usage` → each token once. `cacheDetails` tells the lifetimes of what was written apart."""
    fields = decode_usage(usage)
    written = fields.cache_write_input_tokens or 0
    long = sum(detail.input_tokens for detail in fields.cache_details or () if detail.ttl == "1h")
    kept_long = min(written, long)
    return UsageReport(
        Usage(
            fresh=fields.input_tokens or 0,
            cache_read=fields.cache_read_input_tokens or 0,
            cache_write_5m=written - kept_long,
            cache_write_1h=kept_long,
            output=fields.output_tokens or 0,
        ),
        usage,
    )
