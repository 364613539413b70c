"""Presets: how a request refers to one, what may stand in one, and what becomes of a request that uses one. Pure.

The reference forms are Routeway's (`presets/<id>`) and OpenRouter's (`@preset/<slug>`, `<model>@preset/<slug>`, the
body's `preset`); what their pages leave open is decided in the project's contract, 3.7.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec

from waypost.errors import Refusal
from waypost.policy.preferences import parse_models, parse_provider
from waypost.preset_messages import BODY, MODEL, PARAMS, SYSTEM_PROMPT, TOOLS, TTL

Fields = dict[str, msgspec.Raw]

is_slug = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}").fullmatch
is_id = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
REFERENCE_LENGTH = 512  # characters: a model's name, a preset's, and suffixes
_plain = re.compile(
    r"(?P<name>[^:@]*)(?::(?P<version>[1-9][0-9]{0,8}))?(?P<suffixes>(?::[a-z]+)*)", re.DOTALL
).fullmatch

NULL: Final = msgspec.Raw(b"null")
ABSENT: Final = msgspec.Raw(b"")
"""In the place of None, which msgspec does not know beside `Raw`."""

encode = msgspec.json.Encoder().encode
decode_fields = msgspec.json.Decoder(Fields).decode
decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
decode_text = msgspec.json.Decoder(str).decode

# References


class Reference(msgspec.Struct, frozen=True):
    """A preset, as a request names it. `version` 0: the one that counts. `model`: named beside it, "" if none is.

    `suffixes` stand behind the preset's name (`:nitro`) and belong to the model.
    """

    name: str
    version: int = 0
    model: str = ""
    suffixes: str = ""


def parse_reference(text: str) -> Reference | None:
    """What a request's `model` says of a preset; None where it names a model alone. Raises Refusal INVALID_REQUEST."""
    at = max(text.rfind("@preset/"), text.rfind("@presets/"))
    if at >= 0:
        return _parse_behind(text[at:].partition("/")[2], text[:at], "model")
    if text.startswith("presets/"):
        return _parse_behind(text.removeprefix("presets/"), "", "model")
    return None


def parse_field(raw: msgspec.Raw) -> Reference | None:
    """The body's `preset`: a reference, or a bare id or slug; null counts as absent. Raises Refusal INVALID_REQUEST."""
    if raw == NULL:
        return None
    try:
        text = decode_text(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid("preset", "must be a string: a preset's slug or id") from None
    if not text:
        raise invalid("preset", "names no preset; write its slug or id, or leave it out")
    if len(text) > REFERENCE_LENGTH:
        raise invalid("preset", f"must be at most {REFERENCE_LENGTH} characters")
    return parse_reference(text) or _parse_behind(text, "", "preset")


def _parse_behind(text: str, model: str, field: str) -> Reference:
    """`<name>[:N][:suffix…][@model]`."""
    text, _, behind = text.partition("@")
    if behind and model:
        raise invalid(field, "names two models; write one of them, before or behind the preset")
    match = _plain(text)
    if match is None:
        return Reference(text, model=model or behind)  # no preset can be called so
    return Reference(normal_name(match["name"]), int(match["version"] or 0), model or behind, match["suffixes"])


def normal_name(name: str) -> str:
    """An id in the one way in which it is stored; a slug as it is."""
    return name.lower() if is_id(name) else name


def unknown(param: str | None = None) -> Refusal:
    """Unknown, or another's private one: in the same words."""
    return Refusal(
        "PRESET_NOT_FOUND",
        "There is no such preset among yours, and no public one; a slug names your own, an id any: "
        "`@preset/<slug>`, `presets/<id>`. GET /v1/presets lists yours.",
        param=param,
    )


# Bodies


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether answers may come from the response cache, and for how many seconds they are kept there."""

    enabled: bool = True
    ttl: Annotated[int, msgspec.Meta(ge=1, le=TTL)] = 300


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One version of a preset. `model` None: any. `params` are fields of the request as they are, none of them null.

    `response_format` and `provider` are empty where there are none.
    """

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=MODEL)] | None = None
    allow_model_override: bool = False
    system_prompt: str | None = None
    params: Fields | None = None
    tools: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=TOOLS)] | None = None
    response_format: msgspec.Raw = ABSENT
    provider: msgspec.Raw = ABSENT
    cache: Cache | None = None


UNSAID: Final = ("allow_model_override", "cache")
"""Fields of a body that no request says: a version that is saved from one keeps them."""

OWN_PLACE: Final = frozenset(Body.__struct_fields__) - {"params"}
PER_REQUEST: Final = frozenset({"messages", "stream", "stream_options", "preset", "session_id", "usage"})
"""What belongs to one request alone."""

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class Known(msgspec.Struct, frozen=True):
    """Parameters whose values are known; any other goes on as it is, and the upstream judges it."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Count | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], msgspec.Meta(max_length=16)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    logit_bias: dict[str, float] | None = None


_decode_body = msgspec.json.Decoder(Body).decode
_decode_known = msgspec.json.Decoder(Known).decode


def parse_body(data: bytes) -> Body:
    """A version's JSON, checked. Raises Refusal INVALID_REQUEST; `param` names the field, down to the innermost."""
    if len(data) > BODY:
        raise Refusal("INVALID_REQUEST", f"The preset takes {len(data)} bytes of JSON; {BODY} are the most.")
    try:
        body = _decode_body(data)
    except msgspec.ValidationError as error:
        raise wrong(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("INVALID_REQUEST", f"The preset is not valid JSON: {error}.") from None
    _check_model(body)
    prompt = body.system_prompt
    if prompt is not None and not 0 < len(prompt.encode()) <= SYSTEM_PROMPT:
        raise invalid("system_prompt", f"1 to {SYSTEM_PROMPT} bytes of text; null for none")
    params = {name: value for name, value in (body.params or {}).items() if value != NULL}
    _check_params(params)
    if body.tools is not None:
        check_tools(body.tools)
    objects = {name: _object(body, name) for name in ("response_format", "provider")}
    if objects["provider"]:
        parse_provider(bytes(objects["provider"]))
    return msgspec.structs.replace(body, params=params or None, tools=body.tools or None, **objects)


def _object(body: Body, name: str) -> msgspec.Raw:
    raw: msgspec.Raw = getattr(body, name)
    if raw in (ABSENT, NULL):
        return ABSENT
    if not bytes(raw).startswith(b"{"):
        raise invalid(name, "must be an object")
    return raw


def _check_model(body: Body) -> None:
    if body.model is None:
        return
    if not body.model.isprintable():
        raise invalid("model", f"must be 1 to {MODEL} printable characters, or null for any")
    if parse_reference(body.model) is not None:
        raise invalid("model", "a preset cannot stand on another; name a model, or null for any")


def _check_params(params: Fields) -> None:
    if len(params) > PARAMS:
        raise invalid("params", f"has {len(params)} fields; {PARAMS} are the most")
    for name in params:
        if name in OWN_PLACE:
            raise invalid(f"params.{name}", f"has a place of its own: write it as `{name}`, beside `params`")
        if name in PER_REQUEST:
            raise invalid(f"params.{name}", "belongs to each request, and cannot stand in a preset")
    try:
        _decode_known(encode(params))
    except msgspec.ValidationError as error:
        raise wrong(error, "params") from None
    if "models" in params:
        try:
            parse_models(bytes(params["models"]))
        except Refusal as refusal:
            raise invalid("params.models", refusal.message.partition(": ")[2].rstrip(".")) from None


def check_tools(tools: list[msgspec.Raw]) -> None:
    """Each an object with a type, and of those with names none twice. Raises Refusal INVALID_REQUEST."""
    seen: dict[tuple[str, str], int] = {}
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        key = identity_of(tool, where)
        if key[1] and key in seen:
            raise invalid(f"{where}.{key[0]}.name", f"{key[1]!r} is the name of tools[{seen[key]}] too")
        seen[key] = number


class Named(msgspec.Struct, frozen=True):
    """What a tool may be known by."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    server_label: str | None = None


_decode_named = msgspec.json.Decoder(Named).decode


def identity_of(tool: msgspec.Raw, where: str) -> tuple[str, str]:
    """A tool's type and name: two with the same are the same tool. Raises Refusal INVALID_REQUEST."""
    try:
        fields = decode_fields(tool)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid(where, "must be an object") from None
    try:
        kind = decode_text(fields.get("type", b""))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid(f"{where}.type", 'is required: "function", or another kind of tool') from None
    try:
        named = _decode_named(fields.get(kind, tool))
    except msgspec.ValidationError as error:
        raise wrong(error, f"{where}.{kind}" if kind in fields else where) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid(where, "is not valid JSON") from None
    if kind == "function" and named.name is None:
        raise invalid(f"{where}.function.name", "is required")
    return kind, named.name or named.server_label or ""


_unknown = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL).fullmatch
_missing = re.compile(r"Object missing required field `(.*)`", re.DOTALL).fullmatch


def invalid(field: str, what: str) -> Refusal:
    """A refusal that names the field."""
    return Refusal("INVALID_REQUEST", f"{field}: {what}.", param=field)


def wrong(error: msgspec.ValidationError, above: str = "") -> Refusal:
    """What msgspec says of a value, with the innermost field's name in front."""
    message, _, path = str(error).partition(" - at `$")
    field = above + path.removesuffix("`")
    for pattern, what in ((_unknown, "there is no such field"), (_missing, "is required")):
        match = pattern(message)
        if match is not None:
            field, message = f"{field}.{match[1][:64]}", what
    field = field.removeprefix(".")
    return invalid(field or "preset", message[:1].lower() + message[1:])


# Saving a request


def body_of_request(fields: Fields) -> tuple[bytes, tuple[str, ...]]:
    """A chat completion request's fields → the JSON of a body, and the names of what is not kept of it.

    System and developer messages become the system prompt, in their order; no other message is kept. Raises Refusal.
    """
    kept: dict[str, Any] = {}
    ignored: list[str] = []
    params: Fields = {}
    for name, value in fields.items():
        if value == NULL:
            continue
        if name == "messages":
            prompt, others = _prompt_of(value)
            if prompt:
                kept["system_prompt"] = prompt
            ignored += [name] if others else []
        elif name == "preset":
            raise invalid("preset", "a preset cannot stand on another; leave it out")
        elif name in PER_REQUEST or name in UNSAID:
            ignored.append(name)
        elif name in OWN_PLACE and name != "system_prompt":
            kept[name] = value
        else:
            params[name] = value
    if params:
        kept["params"] = params
    return encode(kept), tuple(ignored)


class Part(msgspec.Struct, frozen=True):
    """A part of a system message."""

    type: Literal["text"]
    text: str


class SystemMessage(msgspec.Struct, frozen=True):
    """A message that may be a system prompt."""

    content: str | list[Part]


class Role(msgspec.Struct, frozen=True):
    """Who speaks."""

    role: str


_decode_role = msgspec.json.Decoder(Role).decode
_decode_system = msgspec.json.Decoder(SystemMessage).decode


def _prompt_of(messages: msgspec.Raw) -> tuple[str, bool]:
    """The system prompt in a request's messages, and whether there are others."""
    said: list[str] = []
    others = False
    try:
        listed = decode_list(messages)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid("messages", "must be an array of messages") from None
    for number, message in enumerate(listed):
        try:
            if _decode_role(message).role not in ("system", "developer"):
                others = True
                continue
            content = _decode_system(message).content
        except msgspec.ValidationError as error:
            raise wrong(error, f"messages[{number}]") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise invalid(f"messages[{number}]", "is not valid JSON") from None
        said.append(content if isinstance(content, str) else "\n\n".join(part.text for part in content))
    return "\n\n".join(filter(None, said)), others


# Using a preset

ALIASES: Final = (
    frozenset({"max_tokens", "max_completion_tokens"}),
    frozenset({"reasoning", "reasoning_effort", "thinking"}),
)
"""Names for the same thing: where the request says one of them, the preset says none."""

REVEALING: Final = ("echo", "prompt_logprobs", "return_token_ids", "debug")
"""Fields by which some upstreams repeat the prompt they were given, system prompt and all."""

_NOTHING: Final = (b"null", b"false", b"0", b"{}")


def choose_model(reference: Reference, body: Body, given: str) -> str:
    """The model of a request; `given` is what its `model` says beside the reference, "" if nothing.

    Raises Refusal INVALID_REQUEST where there is none, where there are two, or where the preset's own must stay.
    """
    named = reference.model or given
    if given and reference.model and given != reference.model:
        raise invalid("preset", "names a model, and `model` another; name one of them")
    shown = repr(reference.name)
    if not named:
        if body.model is None:
            fix = f"write `<model>@preset/{reference.name}`, or send `preset` and `model`"
            raise invalid("model", f"the preset {shown} is for any model, so name one: {fix}")
        return body.model + reference.suffixes
    if body.model is not None and named != body.model and not body.allow_model_override:
        fix = "leave it out; the preset's owner may set allow_model_override"
        raise invalid("model", f"the preset {shown} has a model of its own, which this one cannot replace: {fix}")
    return named + reference.suffixes


def check_foreign(fields: Fields) -> None:
    """What nobody may ask with another account's preset. Raises Refusal INVALID_REQUEST."""
    for name in REVEALING:
        if name in fields and bytes(fields[name]).strip() not in _NOTHING:
            raise invalid(name, "would repeat the prompt, which is another account's preset's; leave it out")


def merge(fields: Fields, body: Body, model: str) -> Fields:
    """A request's fields with what a preset adds: the request wins, field by field; null counts as absent.

    The system prompt goes first and stays. Tools are those of both, by type and name; preferences of `provider` are
    filled up one by one. Raises Refusal INVALID_REQUEST where `tools`, `messages` or `provider` cannot be read, or
    `models` would go around the preset's own model.
    """
    merged = {name: value for name, value in fields.items() if name != "preset"}
    said = {name for name, value in merged.items() if value != NULL and name != "model"}
    if "models" in said and body.model is not None and not body.allow_model_override:
        raise invalid("models", "the preset has a model of its own, which no other can replace; leave it out")
    thinks = ":thinking" in model.removeprefix(body.model or "")  # a suffix of the request's own
    gaps: Fields = {}
    for name, value in (body.params or {}).items():
        same = next((names for names in ALIASES if name in names), frozenset({name}))
        if said.isdisjoint(same) and not (thinks and "reasoning" in same):
            gaps[name] = value
    if body.response_format != ABSENT and "response_format" not in said:
        gaps["response_format"] = body.response_format
    if body.provider != ABSENT:
        gaps["provider"] = _fill(merged["provider"], body.provider) if "provider" in said else body.provider
    if body.tools is not None:
        gaps["tools"] = _unite(merged["tools"] if "tools" in said else None, body.tools)
    if body.system_prompt is not None:
        gaps["messages"] = _prepend(body.system_prompt, merged["messages"])
    return {**merged, **gaps, "model": msgspec.Raw(encode(model))}


def _fill(given: msgspec.Raw, preset: msgspec.Raw) -> msgspec.Raw:
    """Preferences of the request, and of the preset those that it leaves open."""
    try:
        own = {name: value for name, value in decode_fields(given).items() if value != NULL}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid("provider", "must be an object") from None
    return msgspec.Raw(encode({**decode_fields(preset), **own}))


def _unite(given: msgspec.Raw | None, preset: list[msgspec.Raw]) -> msgspec.Raw:
    """The preset's tools, but for those that the request has of its own, then the request's."""
    if given is None:
        return msgspec.Raw(encode(preset))
    try:
        own = decode_list(given)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid("tools", "must be an array of tools") from None
    theirs = {identity_of(tool, f"tools[{number}]") for number, tool in enumerate(own)}
    return msgspec.Raw(encode([*(tool for tool in preset if identity_of(tool, "tools") not in theirs), *own]))


def _prepend(prompt: str, messages: msgspec.Raw) -> msgspec.Raw:
    """Messages with a system message before all others; what they say is not read."""
    rest = bytes(messages).lstrip()[1:]
    first = encode({"role": "system", "content": prompt})
    comma = b"" if rest.lstrip().startswith(b"]") else b","
    return msgspec.Raw(b"[%b%b%b" % (first, comma, rest))
