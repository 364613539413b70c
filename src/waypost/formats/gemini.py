"""Gemini: `:generateContent` and `:streamGenerateContent` at the Gemini API, and the same at Vertex AI.

Source of the wire facts: ai.google.dev (generateContent, function calling, thinking, thought signatures, structured
output, image generation), Vertex AI's reference, google-genai, and recorded exchanges.
"""

from __future__ import annotations

import urllib.parse
from typing import Any

import msgspec

from waypost.chat import Chat, Object, ResponseFormat, Tool
from waypost.formats.format import (
    Model,
    Names,
    Reading,
    Rendered,
    StreamParser,
    Unsupported,
    encode,
    invalid,
    settle_thinking,
    unheard_wish,
    unknown_fields,
)
from waypost.formats.gemini_answer import Stream, parse_response
from waypost.formats.gemini_content import Block, Conversation, FunctionNames
from waypost.formats.gemini_errors import parse_error
from waypost.formats.gemini_models import is_third_generation, known_model
from waypost.formats.gemini_schema import json_schema, openapi_schema

__all__ = ["known_model", "parse_error", "parse_response", "render_request", "stream_parser"]

MOST_STOPS = 5
DYNAMIC = -1  # thinkingBudget: as much as the model likes
ONLY_JSON = "Answer with one JSON object and nothing else: no other words, no code fence."
SCHEMA_TOOL = "structured_answer"
SCHEMA_SAID = "Give your final answer by calling this function."
# Google's own tools, by the `type` that a caller gives them; what else stands in the object are their settings.
NATIVE_TOOLS = {
    "google_search": "googleSearch",
    "google_search_retrieval": "googleSearchRetrieval",
    "enterprise_web_search": "enterpriseWebSearch",
    "google_maps": "googleMaps",
    "url_context": "urlContext",
    "code_execution": "codeExecution",
    "file_search": "fileSearch",
    "computer_use": "computerUse",
}
# Fields that only some formats have use for.
MODALITIES, IMAGE_CONFIG, SEARCH = "modalities", "image_config", "web_search_options"
SAFETY, CACHED = "safety_settings", "cached_content"
KNOWN = (MODALITIES, IMAGE_CONFIG, SEARCH, SAFETY, CACHED)


def render_request(chat: Chat, model: Model) -> Rendered:
    """A request for Gemini. Raises Unsupported, Refusal."""
    dropped = [*unknown_fields(chat, KNOWN), *unheard(chat), *unheard_wish(chat, model)]
    names = FunctionNames()
    answer = Answer(chat, model, names)
    conversation = Conversation(model, names)
    conversation.add(chat)
    if answer.words:
        conversation.system.append({"text": answer.words})
    body: dict[str, Any] = {"contents": conversation.turns}
    if conversation.system:
        body["systemInstruction"] = {"parts": conversation.system}
    if answer.tools:
        body["tools"] = answer.tools
    if answer.tool_config:
        body["toolConfig"] = answer.tool_config
    config = {**render_sampling(chat, model), **answer.config, **render_output(chat.other)}
    thinking = render_thinking(chat, model)
    if thinking:
        config["thinkingConfig"] = thinking
    if "high" in conversation.details:
        config["mediaResolution"] = "MEDIA_RESOLUTION_HIGH"
    elif conversation.details == {"low"}:
        config["mediaResolution"] = "MEDIA_RESOLUTION_LOW"
    if config:
        body["generationConfig"] = config
    if SAFETY in chat.other:
        body["safetySettings"] = chat.other[SAFETY]
    if CACHED in chat.other:
        body["cachedContent"] = chat.other[CACHED]
    reading = Reading(
        schema_tool=answer.schema_tool,
        names=names.changed(),
        first_call_only=chat.parallel_tool_calls is False,
        strip_fences=bool(answer.words),
    )
    return Rendered(path=path_of(chat, model), body=encode(body), dropped=tuple(dropped), reading=reading)


def path_of(chat: Chat, model: Model) -> str:
    """Where it goes: at Vertex AI a publisher's model or an endpoint of the project, else a model or a tuned one."""
    verb = "streamGenerateContent?alt=sse" if chat.stream else "generateContent"
    return f"{model_path(model)}:{verb}"


def model_path(model: Model) -> str:
    """The model's resource behind base_url."""
    id = urllib.parse.quote(model.id.removeprefix("models/"), safe="@/")
    if model.place:
        return (
            f"/{model.place}/{id}" if id.startswith("endpoints/") else f"/{model.place}/publishers/google/models/{id}"
        )
    return f"/{id}" if id.startswith("tunedModels/") else f"/models/{id}"


def unheard(chat: Chat) -> list[str]:
    """What was asked for and Gemini has no field for, where the answer is the same kind of answer without it."""
    asked = {
        "user": bool(chat.user),
        "service_tier": chat.service_tier not in ("", "auto", "default"),
        "stop": len(chat.stop) > MOST_STOPS,
    }
    return [name for name, is_asked in asked.items() if is_asked]


# generationConfig


def render_sampling(chat: Chat, model: Model) -> dict[str, Any]:
    """Limits, dice and probabilities."""
    limit = chat.max_tokens
    if limit is not None and model.max_output is not None:
        limit = min(limit, model.max_output)
    config = {
        "maxOutputTokens": limit,
        "temperature": chat.temperature,
        "topP": chat.top_p,
        "topK": chat.top_k,
        "stopSequences": chat.stop[:MOST_STOPS] or None,
        "seed": chat.seed,
        "frequencyPenalty": chat.frequency_penalty,
        "presencePenalty": chat.presence_penalty,
        "candidateCount": chat.n if chat.n > 1 else None,
        "responseLogprobs": chat.logprobs or None,
        "logprobs": (chat.logprobs and chat.top_logprobs) or None,
    }
    return {name: value for name, value in config.items() if value is not None}


def render_thinking(chat: Chat, model: Model) -> dict[str, Any]:
    """`thinkingConfig`: a level or a budget, never both. What "none" costs is the least that the model can."""
    thinking = settle_thinking(chat, model)
    if thinking.on is None:
        return {}
    config: dict[str, Any] = {}
    is_off = chat.reasoning.enabled is False
    if model.reasoning == "level":
        if thinking.effort is not None:
            config["thinkingLevel"] = thinking.effort
    elif is_off:
        config["thinkingBudget"] = model.budgets["none"]
    elif thinking.budget is None:
        config["thinkingBudget"] = DYNAMIC
    else:
        budget = min(thinking.budget, model.budgets["max"])
        if chat.max_tokens is not None and not thinking.is_explicit:
            budget = min(budget, chat.max_tokens - 1)  # the limit holds both thoughts and answer
        config["thinkingBudget"] = max(budget, model.budgets["none"])
    if not is_off and not chat.reasoning.exclude:
        config["includeThoughts"] = True
    return config


class ImageConfig(msgspec.Struct, frozen=True):
    """`image_config`, OpenRouter's."""

    aspect_ratio: str | None = None
    image_size: str | None = None


def render_output(other: Object) -> dict[str, Any]:
    """What kinds of output, and of what shape. Raises Unsupported, Refusal."""
    config: dict[str, Any] = {}
    try:
        if MODALITIES in other:
            said = msgspec.json.decode(other[MODALITIES], type=list[str])
            if not {"text", "image"}.issuperset(said):
                raise Unsupported(MODALITIES, "only text and image can be answered by this upstream")
            config["responseModalities"] = [modality.upper() for modality in said]
        if IMAGE_CONFIG in other:
            image = msgspec.json.decode(other[IMAGE_CONFIG], type=ImageConfig)
            shape = {"aspectRatio": image.aspect_ratio, "imageSize": image.image_size}
            config["imageConfig"] = {name: value for name, value in shape.items() if value}
    except msgspec.ValidationError as error:
        raise invalid(IMAGE_CONFIG if MODALITIES in config else MODALITIES, str(error)) from None
    return config


# Tools, and the shape of the answer


class NativeTool(msgspec.Struct, frozen=True):
    """A tool that is no function."""

    type: str


class Answer:
    """What the answer may be: functions and which of them, Google's own tools, a schema, or a JSON object."""

    def __init__(self, chat: Chat, model: Model, names: Names) -> None:
        """Raises Unsupported."""
        self.tool_config: dict[str, Any] = {}
        self.config: dict[str, Any] = {}  # of generationConfig
        self.schema_tool = ""
        self.words = ""
        self._chat = chat
        self._model = model
        self._names = names
        if chat.tools and not model.tools:
            raise Unsupported("tools", f"{model.id} has no tools")
        self._is_strict = any(tool.function.strict for tool in chat.tools)
        self._native = native_tools(chat, model)
        self._functions = [
            self._declared(tool, f"tools[{place}].function")
            for place, tool in enumerate(chat.tools)
            if model.strict_tools or self._is_allowed(tool)
        ]
        if self._functions:
            self._choose()
        elif chat.tool_choice is not None and chat.tool_choice.mode == "required":
            raise Unsupported("tool_choice", "Gemini cannot be made to use Google's own tools")
        if chat.response_format is not None:
            self._shape(chat.response_format)
        if self._functions and self._native:
            if not is_third_generation(model):
                raise Unsupported("tools", f"{model.id} takes either functions or Google's own tools")
            if not model.place:
                self.tool_config["includeServerSideToolInvocations"] = True

    @property
    def tools(self) -> list[Block]:
        """`tools`."""
        return [*([{"functionDeclarations": self._functions}] if self._functions else []), *self._native]

    @property
    def _mode(self) -> str:
        """The caller's choice of tools, in a word."""
        return self._chat.tool_choice.mode if self._chat.tool_choice is not None else ""

    def _is_allowed(self, tool: Tool) -> bool:
        allowed = self._chat.tool_choice.allowed if self._chat.tool_choice is not None else ()
        return not allowed or tool.function.name in allowed

    def _declared(self, tool: Tool, param: str) -> Block:
        function = tool.function
        if function.strict and not self._model.strict_tools:
            raise Unsupported(f"{param}.strict", f"{self._model.id} cannot hold itself to a schema")
        declared: Block = {"name": self._names.fit(function.name), "description": function.description or ""}
        if not declared["description"]:
            del declared["description"]
        if function.parameters is not None:
            schema = msgspec.json.decode(encode(function.parameters))
            if "type" not in schema and "$ref" not in schema:
                schema = {"type": "object", **schema}
            declared |= render_schema(schema, "parameters", "parametersJsonSchema")
        return declared

    def _choose(self) -> None:
        """`functionCallingConfig`. VALIDATED is AUTO with calls that follow their schemas."""
        wanted = self._chat.tool_choice
        config: dict[str, Any] = {}
        if self._mode == "none":
            config["mode"] = "NONE"
        elif self._mode == "required":
            if not self._model.forced_tools:
                raise Unsupported("tool_choice", f"{self._model.id} cannot be made to call a function")
            config["mode"] = "ANY"
        elif self._is_strict or (wanted is not None and wanted.allowed and self._model.strict_tools):
            config["mode"] = "VALIDATED"
        elif self._mode == "auto":
            config["mode"] = "AUTO"
        if wanted is not None and wanted.mode != "none" and self._model.strict_tools | (wanted.mode == "required"):
            named = (wanted.name,) if wanted.name else wanted.allowed
            if named:
                config["allowedFunctionNames"] = [self._names.fit(name) for name in named]
        if config:
            self.tool_config["functionCallingConfig"] = config

    def _shape(self, wanted: ResponseFormat) -> None:
        """JSON, natively where the model can beside the tools that it has, else by a function or in words."""
        schema = msgspec.json.decode(wanted.schema) if wanted.schema is not None else None
        if self._functions and self._mode == "none" and not self._model.schema_with_tools:
            self._functions, self.tool_config = [], {}  # none may be called: without them it can
        has_tools = bool(self._functions or self._native)
        can = self._model.json_object if schema is None else self._model.schema
        if can and (self._model.schema_with_tools or not has_tools):
            self.config["responseMimeType"] = "application/json"
            if schema is not None:
                if wanted.description:
                    schema.setdefault("description", wanted.description)
                self.config |= render_schema(schema, "responseSchema", "responseJsonSchema")
        elif schema is None:
            self.words = ONLY_JSON
        elif self._native or not self._model.tools:
            raise Unsupported("response_format", f"{self._model.id} has no schema for its answer beside these tools")
        elif self._mode != "required":  # else the caller forces a function of its own: no text will come
            self._by_function(schema, wanted)

    def _by_function(self, schema: Any, wanted: ResponseFormat) -> None:
        """The answer is to be the arguments of a function that must be called, unless another is."""
        if schema.get("type", "object") != "object":
            raise Unsupported("response_format", f"{self._model.id} can only answer with a JSON object beside tools")
        taken = {function["name"] for function in self._functions}
        self.schema_tool = SCHEMA_TOOL
        while self.schema_tool in taken:
            self.schema_tool += "_"
        said = "\n\n".join(filter(None, [wanted.description, SCHEMA_SAID]))
        declared = {"name": self.schema_tool, "description": said}
        declared |= render_schema({"type": "object", **schema}, "parameters", "parametersJsonSchema")
        self._functions.append(declared)
        config = self.tool_config.setdefault("functionCallingConfig", {})
        config["mode"] = "ANY"
        if "allowedFunctionNames" in config:
            config["allowedFunctionNames"].append(self.schema_tool)


def render_schema(schema: Any, small: str, full: str) -> dict[str, Any]:
    """A schema under the name of the form that can say all of it."""
    made = openapi_schema(schema)
    return {small: made} if made is not None else {full: json_schema(schema)}


def native_tools(chat: Chat, model: Model) -> list[Block]:
    """Google's own tools. Raises Unsupported."""
    made: list[Block] = []
    for place, raw in enumerate(chat.native_tools):
        kind = msgspec.json.decode(raw, type=NativeTool).type
        if kind not in NATIVE_TOOLS:
            raise Unsupported(f"tools[{place}]", f"{model.id} takes functions and Google's own tools only")
        settings = {name: value for name, value in msgspec.json.decode(raw, type=Object).items() if name != "type"}
        made.append({NATIVE_TOOLS[kind]: settings})
    if SEARCH in chat.other and not any("googleSearch" in tool for tool in made):
        made.append({"googleSearch": {}})
    return made


# Answers


def stream_parser(reading: Reading) -> StreamParser:
    """A parser for one stream."""
    return Stream(reading)
