"""The vocabulary of what is asked: a conversation and everything said about how to go on with it.

It is OpenAI's chat completion, spelt as on its wire, and what that lacks: `reasoning_content`, `reasoning_details` with
signatures, `cache_control`, and `extra_content`, which is opaque and returns only to the format that wrote it. Every
format translates from this and knows of no other format. What is answered stands in `completion.py`.
`formats/openai_request.py` makes a `Chat` of a caller's request. Values are frozen.

Sources: OpenAI's API reference (chat completions), OpenRouter's for `reasoning` and `reasoning_details`, Google's
OpenAI compatibility page for `extra_content`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Object: TypeAlias = dict[str, msgspec.Raw]
"""A JSON object whose values are untouched."""
Extra: TypeAlias = Object
"""Opaque content by the name of the format that wrote it and reads it back: `{"anthropic": {…}}`, `{"google": {…}}`."""


class Wire(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Spelt as on the wire: encoding one gives OpenAI's JSON, and what was absent stays absent."""


# What a message says


class CacheControl(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A breakpoint for prompt caching, Anthropic's spelling: cache everything up to and including here."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextPart(Wire, frozen=True, tag_field="type", tag="text"):
    """Words."""

    text: str
    cache_control: CacheControl | None = None


class ImageUrl(Wire, frozen=True):
    """`url` is https://… or data:…; it may hold a PDF."""

    url: str
    detail: str | None = None


class ImagePart(Wire, frozen=True, tag_field="type", tag="image_url"):
    """A picture; `image_url` is a bare URL where a client writes Mistral's short form."""

    image_url: ImageUrl | str
    cache_control: CacheControl | None = None

    @property
    def url(self) -> str:
        """https://… or data:…"""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


class FileData(Wire, frozen=True):
    """`file_data` is a data URL, an https URL, or bare base64."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class FilePart(Wire, frozen=True, tag_field="type", tag="file"):
    """A document."""

    file: FileData
    cache_control: CacheControl | None = None


class AudioData(Wire, frozen=True):
    """`data` is base64, `format` such as "wav" or "mp3"."""

    data: str
    format: str


class AudioPart(Wire, frozen=True, tag_field="type", tag="input_audio"):
    """Sound to be heard."""

    input_audio: AudioData
    cache_control: CacheControl | None = None


class VideoUrl(Wire, frozen=True):
    """https://… (YouTube too) or data:…"""

    url: str


class VideoPart(Wire, frozen=True, tag_field="type", tag="video_url"):
    """Moving pictures, OpenRouter's extension."""

    video_url: VideoUrl
    cache_control: CacheControl | None = None


class RefusalPart(Wire, frozen=True, tag_field="type", tag="refusal"):
    """An assistant's earlier refusal."""

    refusal: str


Part = TextPart | ImagePart | FilePart | AudioPart | VideoPart | RefusalPart
Content = str | list[Part] | None


class ReasoningDetail(Wire, frozen=True):
    """One piece of reasoning in the shape that its own format needs back, verbatim and in order.

    `type` is reasoning.text (`text`, `signature`), reasoning.summary (`summary`) or reasoning.encrypted (`data`).
    `format` names whose it is (the constants below): a target of another family never gets to see it.
    """

    type: str
    text: str | None = None
    summary: str | None = None
    data: str | None = None
    signature: str | None = None
    id: str | None = None
    format: str | None = None
    index: int | None = None


# `ReasoningDetail.format`, in OpenRouter's spelling. Claude's signatures hold on Anthropic, Bedrock and Vertex alike.
CLAUDE = "anthropic-claude-v1"
GEMINI = "google-gemini-v1"


class FunctionCall(Wire, frozen=True, omit_defaults=False):
    """`arguments` is JSON text, as the model wrote it: it may be empty or broken."""

    name: str
    arguments: str = ""


class ToolCall(Wire, frozen=True, tag_field="type", tag="function"):
    """One call; `extra_content` carries what the model's family needs back with it, such as a thought signature."""

    id: str
    function: FunctionCall
    extra_content: Extra | None = None


# Messages: `role` is the tag


class SystemMessage(Wire, frozen=True, tag_field="role", tag="system"):
    """Instructions; a `developer` message becomes one as well."""

    content: Content = None
    name: str | None = None
    cache_control: CacheControl | None = None  # on a message: as if on its last part


class DeveloperMessage(Wire, frozen=True, tag_field="role", tag="developer"):
    """What newer OpenAI models call a system message. A parsed `Chat` has none."""

    content: Content = None
    name: str | None = None
    cache_control: CacheControl | None = None


class UserMessage(Wire, frozen=True, tag_field="role", tag="user"):
    """The user's turn."""

    content: Content = None
    name: str | None = None
    cache_control: CacheControl | None = None


class AssistantMessage(Wire, frozen=True, tag_field="role", tag="assistant"):
    """The model's turn, as the caller kept it."""

    content: Content = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    function_call: FunctionCall | None = None  # legacy; a parsed `Chat` has it in `tool_calls`
    reasoning_content: str | None = None
    reasoning: str | None = None  # OpenRouter's spelling of reasoning_content
    reasoning_details: tuple[ReasoningDetail, ...] | None = None
    extra_content: Extra | None = None
    cache_control: CacheControl | None = None


class ToolMessage(Wire, frozen=True, tag_field="role", tag="tool"):
    """The result of one call; images may stand in it. `is_error` is Anthropic's."""

    tool_call_id: str
    content: Content = None
    name: str | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class FunctionMessage(Wire, frozen=True, tag_field="role", tag="function"):
    """Legacy; a parsed `Chat` has a ToolMessage in its place."""

    name: str
    content: Content = None


AnyMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage
"""What a parsed `Chat` has."""


# What is asked


class Function(Wire, frozen=True):
    """`parameters` is a JSON Schema, untouched; None where the function takes nothing."""

    name: str
    description: str | None = None
    parameters: Object | None = None
    strict: bool | None = None


class Tool(Wire, frozen=True, tag_field="type", tag="function"):
    """A function that the model may call."""

    function: Function
    cache_control: CacheControl | None = None


class ToolChoice(msgspec.Struct, frozen=True, gc=False):
    """`required` with a `name`: that function. `allowed`: only these of the tools may be called; empty means all."""

    mode: Literal["auto", "none", "required"]
    name: str = ""
    allowed: tuple[str, ...] = ()


class ResponseFormat(msgspec.Struct, frozen=True, gc=False):
    """What the text must be; `schema` is JSON Schema as the caller wrote it, None for json_object."""

    kind: Literal["json_object", "json_schema"]
    name: str = "response"
    schema: msgspec.Raw | None = None
    strict: bool = False
    description: str = ""


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """What the caller wants of thinking. `enabled` None: nothing was said, the model's default holds.

    `effort` and `max_tokens` (a budget) exclude each other. `exclude`: think, but don't show it.
    """

    enabled: bool | None = None
    effort: Effort | None = None
    max_tokens: int | None = None
    exclude: bool = False


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """One request, normalised: what had several spellings has one. None and empty mean that nothing was said.

    `native_tools` are tools that are no functions, as the caller wrote them: a provider's own, such as a web search.
    `other` holds every field not named here, by the caller's spelling: for a format that has use for it, and for the
    list of what was dropped.
    """

    messages: tuple[Message, ...]
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    n: int = 1
    tools: tuple[Tool, ...] = ()
    native_tools: tuple[msgspec.Raw, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning: Reasoning = Reasoning()
    cache_control: CacheControl | None = None  # of the whole request: the breakpoint moves on with every turn
    user: str = ""
    service_tier: str = ""
    other: Object = {}
