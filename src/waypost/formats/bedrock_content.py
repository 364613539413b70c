"""A conversation as Converse's `system` and `messages`.

Source of the wire facts: the service model of bedrock-runtime (Message, ContentBlock, ToolResultBlock, DocumentBlock,
CachePointBlock), AWS's Bedrock user guide, and recorded requests. Turns alternate; results of tools stand first in
theirs; reasoning stands before everything else and is never changed; blank text is refused.
"""

from __future__ import annotations

import base64
import re
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
    VideoPart,
)
from waypost.formats.bedrock_models import BedrockModel
from waypost.formats.format import Names, Unsupported, invalid, parse_arguments, split_data_url, words_of

Block = dict[str, Any]

OPAQUE = "bedrock"  # the key in `extra_content`
POINT = "cachePoint"
STAND_IN = {"text": "."}  # where a turn or its text may not be missing
NO_OUTPUT = "(no output)"
PICTURES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
OFFICE = "application/vnd.openxmlformats-officedocument."
DOCUMENTS = {
    "application/pdf": "pdf", "text/csv": "csv", "application/msword": "doc", "application/vnd.ms-excel": "xls",
    f"{OFFICE}wordprocessingml.document": "docx", f"{OFFICE}spreadsheetml.sheet": "xlsx", "text/html": "html",
    "text/plain": "txt", "text/markdown": "md",
}  # fmt: skip
VIDEOS = {
    "video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "mkv", "video/webm": "webm", "video/x-flv": "flv",
    "video/mpeg": "mpeg", "video/x-ms-wmv": "wmv", "video/3gpp": "three_gp",
}  # fmt: skip
SUFFIXES = {"jpg": "jpeg", "htm": "html", "3gp": "three_gp"}
TITLE = re.compile(r"[^A-Za-z0-9 ()\[\]-]+")
SPACES = re.compile(r" {2,}")


class KeptContent(msgspec.Struct, frozen=True):
    """Our `extra_content.bedrock`: a whole turn as it was, where the vocabulary can't say it."""

    content: list[Block]


decode_kept = msgspec.json.Decoder(KeptContent).decode


class Conversation:
    """`system` and `messages` in the making. Owned by one rendering."""

    def __init__(self, model: BedrockModel, tool_names: Names) -> None:
        self.system: list[Block] = []
        self.turns: list[dict[str, Any]] = []
        self.points: list[Block] = []  # breakpoints, in order
        self.refused_points = False  # the caller has set one where the model takes none
        self.called: dict[str, None] = {}  # names of tools that the history calls, in order
        self._model = model
        self._names = tool_names
        self._ids = Names("a-zA-Z0-9_-" if model.family == "claude" else "a-zA-Z0-9_.:-", 64)
        self._titles: set[str] = set()  # of documents: each must be another
        self._results = 0  # results of tools at the head of the current turn

    def add(self, chat: Chat) -> None:
        """Every message. Raises Unsupported, Refusal."""
        for place, message in enumerate(chat.messages):
            if isinstance(message, UserMessage):
                blocks = self._content(message.content, place)
                self._say("user", self._mark_last(blocks, message.cache_control))
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
        if self.turns[0]["role"] == "assistant" and self._model.family != "claude":
            self.turns.insert(0, {"role": "user", "content": [STAND_IN]})  # only Claude may have begun it
        self._finish_turns()

    # Turns

    def _say(self, role: str, blocks: list[Block]) -> None:
        """Add to the turn of this role, or begin one; nothing said makes no turn."""
        if not blocks:
            return
        if not self.turns or self.turns[-1]["role"] != role:
            self._begin(role)
        self.turns[-1]["content"] += blocks

    def _begin(self, role: str) -> None:
        self.turns.append({"role": role, "content": []})
        self._results = 0

    def _add_system(self, message: SystemMessage, place: int) -> None:
        blocks = self._content(message.content, place, "system")
        if any("text" not in block and POINT not in block for block in blocks):
            raise Unsupported(f"messages[{place}].content", "a system message may only have text for this upstream")
        self.system += self._mark_last(blocks, message.cache_control, "system")

    def _add_result(self, message: ToolMessage, place: int) -> None:
        """A result, before whatever else its turn has; what it may not hold follows the results."""
        id = self._ids.fit(message.tool_call_id)
        parts = self._content(message.content, place)
        point = message.cache_control or next((mark_of(block) for block in reversed(parts) if POINT in block), None)
        parts = [self._unpoint(block) for block in parts if POINT not in block]
        held = [block for block in parts if "text" in block or self._model.result_media & block.keys()]
        outside = [block for block in parts if not any(block is one for one in held)]
        if outside and not held:
            held = [{"text": "It follows."}]
        result: Block = {"toolUseId": id, "content": held or [{"text": NO_OUTPUT}]}
        if message.is_error:
            result["status"] = "error"
        blocks: list[Block] = [{"toolResult": result}]
        if not self.turns or self.turns[-1]["role"] != "user":
            self._begin("user")
        content = self.turns[-1]["content"]
        if point is not None:
            blocks += self._pointed(point, "messages")
        content[self._results : self._results] = blocks
        self._results += len(blocks)
        if outside:
            content += [{"text": f"The result of {id}:"}, *outside]

    def _unpoint(self, block: Block) -> Block:
        self.points = [point for point in self.points if point is not block]
        return block

    def _assistant(self, message: AssistantMessage, place: int) -> list[Block]:
        """Reasoning, words, calls."""
        for call in message.tool_calls or ():
            self.called[call.function.name] = None
        if message.extra_content is not None and (kept := kept_content(message)) is not None:
            return kept
        blocks = self._content(message.content, place)
        if not blocks and message.refusal:
            blocks = [{"text": message.refusal}]
        if message.reasoning_details and self._model.family == "claude":
            blocks = replayed_reasoning(message) + blocks
        for call in message.tool_calls or ():
            function = call.function
            use = {"toolUseId": self._ids.fit(call.id), "name": self._names.fit(function.name)}
            blocks.append({"toolUse": {**use, "input": parse_arguments(function.arguments)}})
        return self._mark_last(blocks, message.cache_control)

    def _check_prefill(self) -> None:
        """The answer is to go on from the last message: not every model can, and it may not end in white space."""
        if not self._model.prefill:
            raise Unsupported("messages", f"{self._model.id} does not take an assistant's message as the last one")
        last = self.turns[-1]["content"][-1]
        if "text" in last:
            last["text"] = last["text"].rstrip()

    def _finish_turns(self) -> None:
        """What a turn must have, and what it may not mix."""
        finished: list[dict[str, Any]] = []
        for turn in self.turns:
            content = turn["content"]
            results = sum(1 for block in content if "toolResult" in block)
            if results and not self._model.mixes_results and any(is_said(block) for block in content):
                head = [block for block in content if not is_said(block)]
                content = [block for block in content if is_said(block)]
                finished += [{"role": "user", "content": head}, {"role": "assistant", "content": [STAND_IN]}]
            if turn["role"] == "user" and any("document" in block for block in content):
                content = content if any("text" in block for block in content) else [STAND_IN, *content]
            finished.append({"role": turn["role"], "content": content})
        self.turns = finished

    # Blocks

    def _content(self, content: Content, place: int, where: str = "messages") -> list[Block]:
        """A message's content as blocks, without blank text."""
        if isinstance(content, str):
            return [{"text": content}] if content and not content.isspace() else []
        blocks: list[Block] = []
        for index, part in enumerate(content or ()):
            if isinstance(part, TextPart | RefusalPart):
                text = part.text if isinstance(part, TextPart) else part.refusal
                if not text or text.isspace():
                    continue
                blocks.append({"text": text})
            else:
                blocks.append(self._medium(part, f"messages[{place}].content[{index}]"))
            mark = None if isinstance(part, RefusalPart) else part.cache_control
            if mark is not None:
                blocks += self._pointed(mark, where, blocks[-1])
        return blocks

    def _medium(self, part: Part, param: str) -> Block:
        """A picture, a document, a film, sound. Raises Unsupported for what the model can't take in."""
        match part:
            case ImagePart():
                return self._source(part.url, param, "image")
            case VideoPart():
                return self._source(part.video_url.url, param, "video")
            case AudioPart():
                self._check("audio", param)
                return {"audio": {"format": part.input_audio.format, "source": {"bytes": part.input_audio.data}}}
            case FilePart():
                if part.file.file_id:
                    raise Unsupported(param, f"file {part.file.file_id} was not uploaded to this upstream")
                data = part.file.file_data or ""
                if not data.startswith(("data:", "https:", "http:", "s3:")):
                    data = f"data:application/pdf;base64,{data}"
                return self._source(data, param, "document", part.file.filename or "")
        raise Unsupported(param, "only text, pictures, documents, video and audio are known")

    def _source(self, url: str, param: str, kind: str, title: str = "") -> Block:
        """A data or s3 URL as a block; what it holds decides of which kind."""
        data = split_data_url(url)
        if data is None:
            if not url.startswith("s3://"):
                raise Unsupported(param, "only data: and s3: URLs reach this upstream")
            suffix = url.rpartition(".")[2].lower()
            return self._block(kind, SUFFIXES.get(suffix, suffix), {"s3Location": {"uri": url}}, param, title)
        media_type, encoded = data
        source = {"bytes": encoded}
        if media_type in PICTURES:
            return self._block("image", PICTURES[media_type], source, param)
        if media_type in VIDEOS:
            return self._block("video", VIDEOS[media_type], source, param)
        if media_type in DOCUMENTS or (media_type.startswith("text/") and kind == "document"):
            return self._block("document", DOCUMENTS.get(media_type, "txt"), source, param, title)
        raise Unsupported(param, f"{self._model.id} does not take {media_type}")

    def _block(self, kind: str, format: str, source: Block, param: str, title: str = "") -> Block:
        self._check("pdf" if kind == "document" else kind, param)
        made: Block = {"format": format, "source": source}
        if kind == "document":
            made = {"name": self._title(title), **made}
        return {kind: made}

    def _check(self, modality: str, param: str) -> None:
        if modality not in self._model.inputs:
            name = "documents" if modality == "pdf" else modality
            raise Unsupported(param, f"{self._model.id} does not take {name}")

    def _title(self, filename: str) -> str:
        """A document's name: of few characters, and another for each."""
        stem = SPACES.sub(" ", TITLE.sub(" ", filename.rpartition(".")[0] or filename)).strip()[:150]
        title = stem or f"Document {len(self._titles) + 1}"
        number = 2
        while title in self._titles:
            title, number = f"{stem or 'Document'} {number}", number + 1
        self._titles.add(title)
        return title

    # Breakpoints

    def _pointed(self, mark: CacheControl, where: str, behind: Block | None = None) -> list[Block]:
        """The block that marks a breakpoint. It may not follow a document or a film at once: a line end does."""
        if where not in self._model.caches:
            self.refused_points = True
            return []
        point = render_point(mark, self._model)
        self.points.append(point)
        return [{"text": "\n"}, point] if behind is not None and behind.keys() & {"document", "video"} else [point]

    def _mark_last(self, blocks: list[Block], mark: CacheControl | None, where: str = "messages") -> list[Block]:
        """A message's own breakpoint, at its end; reasoning takes none."""
        if mark is not None and blocks and not blocks[-1].keys() & {POINT, "reasoningContent"}:
            blocks += self._pointed(mark, where, blocks[-1])
        return blocks


def render_point(mark: CacheControl, model: BedrockModel) -> Block:
    """`cachePoint`, for an hour where the caller wants that and the model has it."""
    point = {"type": "default"}
    if mark.ttl == "1h" and model.caches_long:
        point["ttl"] = "1h"
    return {POINT: point}


def mark_of(block: Block) -> CacheControl:
    """The caller's words for a breakpoint of ours."""
    return CacheControl("ephemeral", block[POINT].get("ttl"))


def is_said(block: Block) -> bool:
    """Is it something else than a result and its breakpoint?"""
    return not block.keys() & {"toolResult", POINT}


def replayed_reasoning(message: AssistantMessage) -> list[Block]:
    """What Claude thought, as it signed it; other models' thoughts are not for it."""
    blocks: list[Block] = []
    for detail in message.reasoning_details or ():
        block = reasoning_block(detail) if detail.format == CLAUDE else None
        if block is not None:
            blocks.append({"reasoningContent": block})
    return blocks


def reasoning_block(detail: ReasoningDetail) -> Block | None:
    """One signed or redacted thought. What Anthropic calls `data` is bytes here, and so is encoded once more."""
    if detail.type == "reasoning.text" and detail.signature:
        return {"reasoningText": {"text": detail.text or "", "signature": detail.signature}}
    if detail.type == "reasoning.encrypted" and detail.data:
        return {"redactedContent": base64.b64encode(detail.data.encode()).decode()}
    return None


def kept_content(message: AssistantMessage) -> list[Block] | None:
    """The turn as Bedrock wrote it, if the caller kept that and has changed neither words nor calls since."""
    raw = (message.extra_content or {}).get(OPAQUE)
    if raw is None or message.cache_control is not None:
        return None
    try:
        content = decode_kept(raw).content
        text = "".join(said_in(block) for block in content)
        calls = [
            block["toolUse"]["toolUseId"]
            for block in content
            if "toolUse" in block and block["toolUse"].get("type") != "server_tool_use"
        ]
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return None
    is_unchanged = text == words_of(message.content) and calls == [call.id for call in message.tool_calls or ()]
    return content if is_unchanged else None


def said_in(block: Block) -> str:
    """The words of a kept block."""
    if "citationsContent" in block:
        return "".join(piece["text"] for piece in block["citationsContent"]["content"])
    text = block.get("text", "")
    return text if isinstance(text, str) else ""
