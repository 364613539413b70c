"""OpenAI's chat completions, where caller and upstream both speak it: fields are moved, prompts are never decoded.

Source of the wire facts: OpenAI's API reference for chat completions, and what its own SDK reads.
"""

from __future__ import annotations

from typing import Any

import msgspec

from waypost.errors import Refusal
from waypost.formats.json_gate import DIGITS, check_duplicates, check_shape, check_utf8

Fields = dict[str, msgspec.Raw]

# Said to the gateway, not to the model: never sent on.
GATEWAY_ONLY = frozenset({"preset", "provider", "models", "cache", "plugins", "session_id", "usage"})
OBEYED = frozenset({"preset", "provider", "models", "session_id", "usage"})  # of these, what is obeyed here
STEERING = frozenset({"preset", "provider", "models"})
# Where the copy that is checked and the copy that is used must be the same one.
ONCE = (
    b'"model"',
    b'"messages"',
    b'"stream"',
    b'"stream_options"',
    b'"max_tokens"',
    b'"max_completion_tokens"',
    b'"n"',
    b'"provider"',
    b'"models"',
    b'"preset"',
)
MODEL_LENGTH = 256  # characters
SESSION_LENGTH = 256

decode_fields = msgspec.json.Decoder(Fields).decode
decode_choices = msgspec.json.Decoder(list[Fields]).decode
decode_text = msgspec.json.Decoder(str).decode
decode_any = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode

TRUE = msgspec.Raw(b"true")
NULL = msgspec.Raw(b"null")
OPEN_BRACKET = ord("[")
EMPTY_LIST = msgspec.Raw(b"[]")


class UsedPreset(msgspec.Struct, frozen=True):
    """The preset that a request has been completed from.

    `written` is how the caller named it, `shown` (JSON) how the answer does. `cache`: whether the preset wants answers
    from the response cache, and for how many seconds they are kept there; None: it says nothing.
    """

    id: str
    version: int
    is_own: bool  # the caller's account's; else nothing of what is in it is told
    written: str
    shown: msgspec.Raw
    cache: tuple[bool, int] | None = None


class LeftOut(msgspec.Struct, frozen=True):
    """`messages` of the `of` that the request came with are not sent on; `fields` are those it came with."""

    messages: int
    of: int
    fields: Fields


class ChatRequest(msgspec.Struct, frozen=True):
    """A request as far as the gateway reads it. `fields` are the caller's own bytes, by top-level name.

    `body` is what it is estimated by: the caller's, or what has been made of it.
    """

    body: bytes
    fields: Fields
    model: str
    stream: bool
    include_usage: bool  # the caller wants the usage chunk of a stream
    ignored: tuple[str, ...]  # gateway-only fields with a value that nothing here obeys
    wants_cost: bool = False  # the answer's usage is to say what it cost
    max_output: int = 0  # tokens that a choice may have at most, as the caller says; 0: it does not
    choices: int = 1  # `n`
    steers: bool = False  # it says something about routing: `provider`, `models`, or names a preset in `preset`
    preset: UsedPreset | None = None
    left_out: LeftOut | None = None

    @property
    def is_discreet(self) -> bool:
        """Part of what is asked is not the caller's to read."""
        return self.preset is not None and not self.preset.is_own


def parse_request(body: bytes) -> ChatRequest:
    """A body → ChatRequest. Raises Refusal INVALID_REQUEST; `param` names the field."""
    fields = parse_object(body)
    check_duplicates(body, fields, ONCE, "messages")
    messages = fields.get("messages")
    if messages is None or memoryview(messages)[0] != OPEN_BRACKET:
        raise invalid("messages", "an array of messages is required")
    return read_request(body, fields)


def read_request(body: bytes, fields: Fields) -> ChatRequest:
    """The fields of a body that is in shape → ChatRequest; its `model` is empty where `preset` may stand for it.

    Raises Refusal as `parse_request` does.
    """
    stream = "stream" in fields and read_bool(fields, "stream")
    include_usage = stream and "stream_options" in fields and wants_usage(fields)
    max_output, choices = 0, 1
    if "max_tokens" in fields:
        max_output = read_count(fields, "max_tokens")
    if "max_completion_tokens" in fields:
        max_output = read_count(fields, "max_completion_tokens") or max_output
    if "n" in fields:
        choices = read_count(fields, "n") or 1
    ignored: tuple[str, ...] = ()
    wants_cost = steers = False
    if not GATEWAY_ONLY.isdisjoint(fields):
        ignored = tuple(name for name in fields if name in GATEWAY_ONLY - OBEYED and fields[name] != NULL)
        wants_cost = "usage" in fields and read_bool(parse_options(fields, "usage"), "include", "usage.include")
        include_usage = include_usage or (stream and wants_cost)
        steers = not STEERING.isdisjoint(fields)
        if "session_id" in fields:
            check_session_id(fields["session_id"])
    is_named = "preset" not in fields or fields["preset"] == NULL or fields.get("model", NULL) != NULL
    model = read_model(fields) if is_named else ""
    return ChatRequest(body, fields, model, stream, include_usage, ignored, wants_cost, max_output, choices, steers)


def wants_usage(fields: Fields) -> bool:
    """Does the caller ask for a stream's usage chunk? Raises Refusal."""
    return read_bool(parse_options(fields, "stream_options"), "include_usage", "stream_options.include_usage")


def parse_object(body: bytes) -> Fields:
    """A JSON object of bearable shape by its top-level fields. Raises Refusal INVALID_REQUEST."""
    if not body:
        raise Refusal("INVALID_REQUEST", "The body is empty; send a JSON object.")
    if not body.isascii():
        check_utf8(body)
    check_shape(body)  # first: two million names would be decoded otherwise, only to be counted
    try:
        return decode_fields(body)
    except msgspec.ValidationError:
        raise Refusal("INVALID_REQUEST", "The body must be a JSON object.") from None
    except RecursionError:
        raise Refusal("INVALID_REQUEST", "The body nests too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal("INVALID_REQUEST", f"The body is not valid JSON: {error}.") from None


def invalid(name: str, what: str) -> Refusal:
    """A refusal that names the field."""
    return Refusal("INVALID_REQUEST", f"{name}: {what}.", param=name)


def read_model(fields: Fields) -> str:
    """The `model` field. Raises Refusal."""
    raw = fields.get("model")
    if raw is None:
        raise invalid("model", "the name of a model is required")
    try:
        model = decode_text(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid("model", "must be a string") from None
    if not model or len(model) > MODEL_LENGTH or not model.isprintable():
        raise invalid("model", f"must be 1 to {MODEL_LENGTH} printable characters")
    return model


def check_session_id(raw: msgspec.Raw) -> None:
    """The body's `session_id`: a string that names a conversation. Raises Refusal."""
    if raw == NULL:
        return
    try:
        text = decode_text(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid("session_id", "must be a string") from None
    if len(text) > SESSION_LENGTH:
        raise invalid("session_id", f"at most {SESSION_LENGTH} characters")


def read_bool(fields: Fields, name: str, shown: str = "") -> bool:
    """An optional boolean; null counts as absent. Raises Refusal."""
    raw = fields.get(name)
    if raw is None:
        return False
    text = bytes(raw)
    if text not in (b"true", b"false", b"null"):
        raise invalid(shown or name, "must be true or false")
    return text == b"true"


def read_count(fields: Fields, name: str) -> int:
    """An optional whole number ≥ 0; null counts as absent, and absent is 0. Raises Refusal."""
    text = bytes(fields[name])
    if text == b"null":
        return 0
    if not (text.isdigit() and len(text) <= DIGITS):
        raise invalid(name, f"must be a whole number, 0 or more, of at most {DIGITS} digits")
    return int(text)


def parse_options(fields: Fields, name: str) -> Fields:
    """An object such as `stream_options` by its fields; null counts as empty. Raises Refusal."""
    raw = fields[name]
    if raw == NULL:
        return {}
    try:
        return decode_fields(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid(name, "must be an object") from None


def render_request(request: ChatRequest, model: msgspec.Raw) -> bytes:
    """The body for an OpenAI-format upstream: its own model id, usage always asked for, everything else untouched."""
    fields = request.fields.copy()
    fields["model"] = model
    if not GATEWAY_ONLY.isdisjoint(fields):
        for name in GATEWAY_ONLY:
            fields.pop(name, None)
    if request.stream:
        options = parse_options(fields, "stream_options") if "stream_options" in fields else {}
        options["include_usage"] = TRUE
        fields["stream_options"] = msgspec.Raw(encode(options))
    return encode(fields)


def parse_error(body: bytes) -> tuple[str, str, str | None]:
    """An upstream's error → (message, code, param), from the shapes that OpenAI-like servers use; "" where absent."""
    try:
        data: Any = decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:2000].decode("utf-8", "replace").strip()
        return ("" if text.startswith("<") else text), "", None
    error = data.get("error", data) if isinstance(data, dict) else None
    if isinstance(error, str):
        return error, str(data.get("code") or ""), None
    if not isinstance(error, dict):
        return "", "", None
    message = error.get("message") or data.get("message") or data.get("detail") or ""
    param = error.get("param")
    return (
        message if isinstance(message, str) else encode(message).decode(),
        str(error.get("code") or error.get("type") or ""),
        param if isinstance(param, str) else None,
    )


def is_context_length(message: str, code: str) -> bool:
    """Does an upstream's 400 say that the prompt is too long? OpenAI has a code for it; others only say so."""
    if code == "context_length_exceeded":
        return True
    said = message.lower()
    return "context length" in said or "context window" in said or "maximum context" in said
