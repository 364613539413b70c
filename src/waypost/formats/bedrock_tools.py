"""Converse's `toolConfig`, and the shape of an answer: a schema natively, by a forced tool, or in words.

Source of the wire facts: the service model of bedrock-runtime (Tool, ToolChoice, OutputFormat), AWS's user guide on
structured outputs, recorded requests.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from waypost.chat import Chat, ResponseFormat, Tool
from waypost.formats.anthropic_schema import is_open, normalise_schema
from waypost.formats.bedrock_content import POINT, Block, Conversation, render_point
from waypost.formats.bedrock_models import BedrockModel
from waypost.formats.format import Names, Unsupported, encode

ONLY_JSON = "Answer with one JSON object and nothing else: no other words, no code fence."
SCHEMA_TOOL = "structured_answer"
SCHEMA_SAID = "Give your final answer by calling this tool."
NATIVE_TOOL = re.compile(r"nova_[a-z_]+")  # what Nova runs itself
EMPTY_SCHEMA = {"type": "object", "properties": {}}


class NativeTool(msgspec.Struct, frozen=True):
    """A tool that is no function."""

    type: str


class Answer:
    """What the answer may be: tools and which of them, a schema, or a JSON object. Owned by one rendering."""

    def __init__(self, chat: Chat, model: BedrockModel, names: Names) -> None:
        """Raises Unsupported."""
        self.tools: list[Block] = []
        self.offered: list[Block] = []  # what the caller gave, where none of them may be called
        self.points: list[Block] = []
        self.refused_points = False
        self.choice: Block | None = None  # only where one must be called
        self.schema: Any = None  # natively
        self.schema_tool = ""  # by a tool
        self.words = ""  # in words
        self._model = model
        self._names = names
        wanted = chat.tool_choice
        self.is_silenced = wanted is not None and wanted.mode == "none"
        if (chat.tools or chat.native_tools) and not model.tools and not self.is_silenced:
            raise Unsupported("tools", f"{model.id} has no tools")
        self._add_all(chat)
        if self.is_silenced:
            self.offered, self.tools = self.tools, []
        elif wanted is not None and wanted.mode == "required" and self.tools:
            self._force(names.fit(wanted.name) if wanted.name else "")
        if chat.response_format is not None:
            self._shape(chat.response_format)

    def _add_all(self, chat: Chat) -> None:
        allowed = chat.tool_choice.allowed if chat.tool_choice is not None else ()
        for place, tool in enumerate(chat.tools):
            if not allowed or tool.function.name in allowed:
                self._add(tool, f"tools[{place}].function")
        for raw in chat.native_tools:
            kind = msgspec.json.decode(raw, type=NativeTool).type
            if NATIVE_TOOL.fullmatch(kind) is None:
                raise Unsupported("tools", f"{self._model.id} takes functions and Nova's own tools only")
            self.tools.append({"systemTool": {"name": kind}})

    def _add(self, tool: Tool, param: str) -> None:
        function = tool.function
        made: Block = {"name": self._names.fit(function.name)}
        if function.description:
            made["description"] = function.description
        schema: Any = function.parameters or EMPTY_SCHEMA
        if "type" not in schema:
            schema = {"type": "object", **schema}
        if function.strict:
            if not self._model.strict_tools:
                raise Unsupported(f"{param}.strict", f"{self._model.id} cannot hold itself to a schema")
            schema = self._normalised(msgspec.json.decode(encode(schema)))
            made["strict"] = True
        made["inputSchema"] = {"json": schema}
        self.tools.append({"toolSpec": made})
        if tool.cache_control is not None:
            if "tools" in self._model.caches:
                self.points.append(render_point(tool.cache_control, self._model))
                self.tools.append(self.points[-1])
            else:
                self.refused_points = True

    def _normalised(self, schema: Any) -> Any:
        """Claude's constrained decoding has its own dialect."""
        return normalise_schema(schema) if self._model.family == "claude" else schema

    def _force(self, name: str) -> None:
        """A tool must be called: of this name, where one is given. Raises Unsupported."""
        if not self._model.forced_tools:
            raise Unsupported("tool_choice", f"{self._model.id} cannot be made to call a tool")
        self.choice = {"any": {}}
        if name and self._model.names_tools:
            self.choice = {"tool": {"name": name}}
        elif name:
            self.tools = [tool for tool in self.tools if tool.get("toolSpec", {}).get("name") == name]

    def _shape(self, wanted: ResponseFormat) -> None:
        """A schema is asked of the model itself where it can, else of a tool that it must call, else in words."""
        if wanted.schema is None:
            self.words = ONLY_JSON
            return
        schema = msgspec.json.decode(wanted.schema)
        is_native = self._model.schema and (wanted.strict or not is_open(schema))
        if is_native and (not self.tools or self._model.schema_with_tools):
            self.schema = render_schema(wanted, self._normalised(schema))
        elif self._model.forced_tools and self._model.tools and schema.get("type", "object") == "object":
            self._shape_by_tool(wanted, schema)
        elif wanted.strict:
            raise Unsupported("response_format", f"{self._model.id} cannot hold itself to this schema")
        else:
            self.words = f"{ONLY_JSON} It must obey this JSON Schema: {encode(schema).decode()}"

    def _shape_by_tool(self, wanted: ResponseFormat, schema: dict[str, Any]) -> None:
        if self.choice is not None and "tool" in self.choice:
            return  # the caller forces a tool of its own: no text will come
        taken = {tool["toolSpec"]["name"] for tool in self.tools if "toolSpec" in tool}
        self.schema_tool = SCHEMA_TOOL
        while self.schema_tool in taken:
            self.schema_tool += "_"
        said = "\n\n".join(filter(None, [wanted.description, SCHEMA_SAID]))
        has_others = any(POINT not in tool for tool in self.tools)
        if has_others or not self._model.names_tools:
            self.choice = {"any": {}}
        else:
            self.choice = {"tool": {"name": self.schema_tool}}
        made = {"name": self.schema_tool, "description": said, "inputSchema": {"json": {"type": "object", **schema}}}
        self.tools.append({"toolSpec": made})


def render_schema(wanted: ResponseFormat, schema: Any) -> Block:
    """`outputConfig.textFormat`; the schema is text in it."""
    made = {"name": Names("a-zA-Z0-9_-", 64).fit(wanted.name), "schema": encode(schema).decode()}
    if wanted.description:
        made["description"] = wanted.description
    return {"type": "json_schema", "structure": {"jsonSchema": made}}


def past_tools(conversation: Conversation, names: Names) -> list[Block]:
    """A history with calls needs tools: where the caller gives none, those that were called are named."""
    return [
        {"toolSpec": {"name": names.fit(name), "inputSchema": {"json": {"type": "object"}}}}
        for name in conversation.called
    ]
