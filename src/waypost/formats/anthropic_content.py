"""A conversation as Anthropic's `system` and `messages`.

Source of the wire facts: docs.anthropic.com (messages, tool use, vision, PDF support, extended thinking, caching) and
recorded requests. Turns alternate; results of tools stand first in theirs; thinking stands before everything else
and is never changed.
"""

from __future__ import annotations

import binascii
from typing import Any

import msgspec

from waypost.chat import (
    CLAUDE,
    AssistantMessage,
    AudioPart,
    CacheControl,
    Chat,
    Content,
    FilePart,
    ImagePart,
    Part,
    ReasoningDetail,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)
from waypost.formats.format import Model, Names, Unsupported, invalid, parse_arguments, split_data_url, words_of

Block = dict[str, Any]

PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
PDF = "application/pdf"
THOUGHTS = frozenset({"thinking", "redacted_thinking"})
OPAQUE = "anthropic"  # the key in `extra_content`


class KeptContent(msgspec.Struct, frozen=True):
    """Our `extra_content.anthropic`: a whole turn as it was, where the vocabulary can't say it."""

    content: list[msgspec.Raw]


class KeptBlock(msgspec.Struct, frozen=True):
    """Of a kept block, what tells whether the caller has changed the turn since."""

    type: str
    text: str = ""
    id: str = ""


decode_kept = msgspec.json.Decoder(KeptContent).decode
decode_kept_block = msgspec.json.Decoder(KeptBlock).decode


class Conversation:
    """`system` and `messages` in the making. Owned by one rendering."""

    def __init__(self, model: Model, tool_names: Names) -> None:
        self.system: list[Block] = []
        self.turns: list[dict[str, Any]] = []
        self.marked: list[Block] = []  # blocks with a breakpoint, in order
        self.called: dict[str, None] = {}  # names of tools that the history calls, in order
        self.uses_files = False
        self._model = model
        self._names = tool_names
        self._ids = Names("a-zA-Z0-9_-", 256)
        self._results = 0  # results of tools at the head of the current turn

    def add(self, chat: Chat) -> None:
        """Every message. Raises Unsupported, Refusal."""
        for place, message in enumerate(chat.messages):
            if isinstance(message, UserMessage):
                self._say("user", self._mark_last(self._content(message.content, place), message.cache_control))
            elif isinstance(message, AssistantMessage):
                self._say("assistant", self._assistant(message, place))
            elif isinstance(message, ToolMessage):
                self._add_result(message, place)
            else:
                self._add_system(message, place)
        if not self.turns:
            if not self.system:
                raise invalid("messages", "nothing is said in them")
            self.turns = [{"role": "user", "content": self.system}]  # instructions alone are what the user says
            self.system = []
        elif self.turns[-1]["role"] == "assistant":
            self._check_prefill()

    # Turns

    def _say(self, role: str, blocks: list[Block]) -> None:
        """Add to the turn of this role, or begin one; nothing said makes no turn."""
        if not blocks:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += blocks
            return
        self.turns.append({"role": role, "content": blocks})
        self._results = 0

    def _add_system(self, message: SystemMessage, place: int) -> None:
        blocks = self._content(message.content, place)
        if any(block["type"] != "text" for block in blocks):
            raise Unsupported(f"messages[{place}].content", "a system message may only have text for this upstream")
        blocks = self._mark_last(blocks, message.cache_control)
        # Such a message must follow the user's turn; anywhere else it joins the instructions at the top.
        if self._model.inline_system and self.turns and self.turns[-1]["role"] in ("user", "system"):
            self._say("system", blocks)
        else:
            self.system += blocks

    def _add_result(self, message: ToolMessage, place: int) -> None:
        """A result; those that belong to the same turn stand before whatever else it has."""
        block: Block = {"type": "tool_result", "tool_use_id": self._ids.fit(message.tool_call_id)}
        content = message.content
        if isinstance(content, str):
            if content:
                block["content"] = content
        elif content:
            inner = self._content(content, place)
            # A breakpoint on a part counts for the result as a whole.
            mark = next((part.pop("cache_control") for part in reversed(inner) if "cache_control" in part), None)
            self.marked = [one for one in self.marked if not any(one is part for part in inner)]
            if inner:
                block["content"] = inner
            if mark is not None:
                self._mark(block, mark)
        if message.is_error:
            block["is_error"] = True
        if message.cache_control is not None:
            self._mark(block, message.cache_control)
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns[-1]["content"].insert(self._results, block)
        else:
            self._say("user", [block])
        self._results += 1

    def _assistant(self, message: AssistantMessage, place: int) -> list[Block]:
        """Thinking, words, calls."""
        for call in message.tool_calls or ():
            self.called[call.function.name] = None
        if message.extra_content is not None and (kept := kept_content(message)) is not None:
            return kept
        blocks = self._content(message.content, place)
        if not blocks and message.refusal:
            blocks = [{"type": "text", "text": message.refusal}]
        if message.reasoning_details:
            blocks = replayed_thinking(message) + blocks
        for call in message.tool_calls or ():
            function = call.function
            use = {"type": "tool_use", "id": self._ids.fit(call.id), "name": self._names.fit(function.name)}
            blocks.append({**use, "input": parse_arguments(function.arguments)})
        return self._mark_last(blocks, message.cache_control)

    def _check_prefill(self) -> None:
        """The answer is to go on from the last message: not every model can, and it may not end in white space."""
        if not self._model.prefill:
            raise Unsupported("messages", f"{self._model.id} does not take an assistant's message as the last one")
        content = self.turns[-1]["content"]
        last = content[-1]
        if isinstance(last, dict) and last["type"] == "text":
            last["text"] = last["text"].rstrip()

    # Blocks

    def _content(self, content: Content, place: int) -> list[Block]:
        """A message's content as blocks, without empty text, which is refused."""
        if isinstance(content, str):
            return [{"type": "text", "text": content}] if content and not content.isspace() else []
        blocks: list[Block] = []
        for index, part in enumerate(content or ()):
            if isinstance(part, TextPart | RefusalPart):
                text = part.text if isinstance(part, TextPart) else part.refusal
                if not text or text.isspace():
                    continue
                block: Block = {"type": "text", "text": text}
            else:
                block = self._medium(part, f"messages[{place}].content[{index}]")
            blocks.append(block)
            mark = None if isinstance(part, RefusalPart) else part.cache_control
            if mark is not None:
                self._mark(block, mark)
        return blocks

    def _medium(self, part: Part, param: str) -> Block:
        """A picture or a document. Raises Unsupported for what Claude can't take in."""
        if isinstance(part, ImagePart):
            return self._source(part.url, param, "image")
        if isinstance(part, FilePart):
            file = part.file
            if file.file_id:
                return self._uploaded(file.file_id, param)
            data = file.file_data or ""
            if not data.startswith(("data:", "https:", "http:")):
                data = f"data:{PDF};base64,{data}"
            block = self._source(data, param, "document")
            if file.filename and block["type"] == "document":
                block["title"] = file.filename
            return block
        kind = "audio" if isinstance(part, AudioPart) else "video"
        raise Unsupported(param, f"{self._model.id} does not take {kind}")

    def _source(self, url: str, param: str, kind: str) -> Block:
        """A data or https URL as a block; what it holds decides of which type."""
        data = split_data_url(url)
        if data is None:
            if not url.startswith("https://"):
                raise Unsupported(param, "only https: and data: URLs reach this upstream")
            if kind == "document":
                self._check_pdf(param)
            if ("pdf" if kind == "document" else kind) not in self._model.urls:
                raise Unsupported(param, f"{self._model.id} fetches no URLs here: what it names must be in the request")
            return {"type": kind, "source": {"type": "url", "url": url}}
        media_type, encoded = data
        if media_type in PICTURES:
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": encoded}}
        if media_type == PDF:
            self._check_pdf(param)
            return {"type": "document", "source": {"type": "base64", "media_type": PDF, "data": encoded}}
        if media_type.startswith("text/") and kind == "document":
            text = decode_text(encoded, param)
            return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}
        raise Unsupported(param, f"{self._model.id} does not take {media_type}")

    def _check_pdf(self, param: str) -> None:
        if "pdf" not in self._model.inputs:
            raise Unsupported(param, f"{self._model.id} does not take PDF")

    def _uploaded(self, file_id: str, param: str) -> Block:
        """A file that was uploaded to Anthropic: its ids begin so."""
        if not file_id.startswith("file_"):
            raise Unsupported(param, f"file {file_id} was not uploaded to this upstream")
        self.uses_files = True
        return {"type": "document", "source": {"type": "file", "file_id": file_id}}

    # Breakpoints

    def _mark(self, block: Block, mark: CacheControl) -> None:
        block["cache_control"] = mark
        self.marked.append(block)

    def _mark_last(self, blocks: list[Block], mark: CacheControl | None) -> list[Block]:
        """A message's own breakpoint, on its last block; thinking takes none."""
        takes_one = bool(blocks) and "cache_control" not in blocks[-1] and blocks[-1]["type"] not in THOUGHTS
        if mark is not None and takes_one:
            self._mark(blocks[-1], mark)
        return blocks


def decode_text(encoded: str, param: str) -> str:
    """Base64 of UTF-8 text. Raises Refusal."""
    try:
        return binascii.a2b_base64(encoded, strict_mode=True).decode()
    except ValueError:
        raise invalid(param, "the data URL does not hold base64 of UTF-8 text") from None


def replayed_thinking(message: AssistantMessage) -> list[Block]:
    """What Claude thought, as it signed it; other models' thoughts are not for it."""
    blocks: list[Block] = []
    for detail in message.reasoning_details or ():
        block = thinking_block(detail) if detail.format == CLAUDE else None
        if block is not None:
            blocks.append(block)
    return blocks


def thinking_block(detail: ReasoningDetail) -> Block | None:
    """One signed or redacted thought; None where there is no proof that it is Claude's."""
    if detail.type == "reasoning.text" and detail.signature:
        return {"type": "thinking", "thinking": detail.text or "", "signature": detail.signature}
    if detail.type == "reasoning.encrypted" and detail.data:
        return {"type": "redacted_thinking", "data": detail.data}
    return None


def kept_content(message: AssistantMessage) -> list[Any] | None:
    """The turn as Anthropic wrote it, if the caller kept that and has changed neither words nor calls since."""
    raw = (message.extra_content or {}).get(OPAQUE)
    if raw is None or message.cache_control is not None:
        return None
    try:
        content = decode_kept(raw).content
        blocks = [decode_kept_block(block) for block in content]
    except msgspec.DecodeError:
        return None
    text = "".join(block.text for block in blocks if block.type == "text")
    calls = [block.id for block in blocks if block.type == "tool_use"]
    is_unchanged = text == words_of(message.content) and calls == [call.id for call in message.tool_calls or ()]
    if not is_unchanged:
        return None
    return [raw for raw, block in zip(content, blocks, strict=True) if block.type != "text" or block.text.strip()]
