"""A conversation as Gemini's `systemInstruction` and `contents`.

Source of the wire facts: ai.google.dev (generateContent, function calling, thought signatures, file input), Vertex AI's
reference, and recorded requests. Turns alternate between user and model; the results of a model's calls stand in the
next turn, first in it. From Gemini 3 on the first call of a step must carry the signature that it came with.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from waypost.chat import (
    GEMINI,
    AssistantMessage,
    AudioPart,
    Chat,
    FilePart,
    ImagePart,
    ImageUrl,
    Part,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
    VideoPart,
)
from waypost.formats.format import (
    Modality,
    Model,
    Names,
    Unsupported,
    decode_object,
    invalid,
    parse_arguments,
    parts_of,
    split_data_url,
    words_of,
)
from waypost.formats.gemini_models import is_third_generation

Block = dict[str, Any]

OPAQUE = "google"  # the key in `extra_content`
UNSIGNED = "skip_thought_signature_validator"  # in a signature's place, for calls that another model made
NOTHING: Block = {"text": " "}  # Vertex AI refuses empty text
UNFIT = " "  # before a name that begins as none may: it becomes an underscore
YOUTUBE = re.compile(r"https?://(?:(?:www|m)\.)?(?:youtube\.com|youtu\.be)/", re.IGNORECASE)
FILES = re.compile(r"https://generativelanguage\.googleapis\.com/[^/]+/files/")  # uploaded: their type is known there
UPLOADED = "https://generativelanguage.googleapis.com/v1beta/"  # and behind it files/…
# Of URLs, which say nothing of their type until they are fetched: by the ending of their path.
TYPES: dict[str, str] = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "heic": "image/heic",
    "heif": "image/heif", "gif": "image/gif", "pdf": "application/pdf", "txt": "text/plain", "md": "text/markdown",
    "csv": "text/csv", "html": "text/html", "json": "application/json", "wav": "audio/wav", "mp3": "audio/mpeg",
    "aiff": "audio/aiff", "aac": "audio/aac", "ogg": "audio/ogg", "flac": "audio/flac", "m4a": "audio/m4a",
    "mp4": "video/mp4", "mpeg": "video/mpeg", "mpg": "video/mpeg", "mov": "video/quicktime", "avi": "video/avi",
    "webm": "video/webm", "wmv": "video/wmv", "flv": "video/x-flv", "3gp": "video/3gpp",
}  # fmt: skip
USUAL: dict[Modality, str] = {
    "image": "image/jpeg", "pdf": "application/pdf", "audio": "audio/mpeg", "video": "video/mp4", "text": "text/plain",
}  # fmt: skip
IN_RESULTS = frozenset({"image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain"})


class KeptContent(msgspec.Struct, frozen=True):
    """Our `extra_content.google` of a message: a whole turn as it was, where the vocabulary can't say it; Google's has
    the signature of its text."""

    parts: list[msgspec.Raw] | None = None
    thought_signature: str | None = None


class KeptCall(msgspec.Struct, frozen=True):
    """`functionCall` of a kept part."""

    id: str = ""


class KeptPart(msgspec.Struct, frozen=True, rename="camel"):
    """Of a kept part, what tells whether the caller has changed the turn since."""

    text: str = ""
    thought: bool = False
    function_call: KeptCall | None = None


decode_kept = msgspec.json.Decoder(KeptContent).decode
decode_kept_part = msgspec.json.Decoder(KeptPart).decode


class FunctionNames(Names):
    """Names fit for Gemini: they begin with a letter or an underscore."""

    def __init__(self) -> None:
        super().__init__("a-zA-Z0-9_.:-", 64)

    def fit(self, name: str) -> str:
        """The same for the same name, and never the same for two."""
        return super().fit(name if name[:1].isalpha() or name.startswith("_") else UNFIT + name)

    def changed(self) -> dict[str, str]:
        """Those that are not what they were: the original by what was given for it."""
        return {given: name.removeprefix(UNFIT) for given, name in super().changed().items()}


class Conversation:
    """`systemInstruction` and `contents` in the making. Owned by one rendering."""

    def __init__(self, model: Model, names: Names) -> None:
        self.system: list[Block] = []
        self.turns: list[dict[str, Any]] = []
        self.details: set[str] = set()  # how closely the caller wants pictures to be looked at
        self._model = model
        self._names = names
        self._called: dict[str, str] = {}  # names of functions by the ids of their calls
        self._results = 0  # results of functions at the head of the current turn

    def add(self, chat: Chat) -> None:
        """Every message. Raises Unsupported, Refusal."""
        for place, message in enumerate(chat.messages):
            param = f"messages[{place}]"
            match message:
                case SystemMessage():
                    self._add_system(message, param)
                case UserMessage():
                    self._say("user", self._parts(parts_of(message.content), f"{param}.content"))
                case ToolMessage():
                    self._add_result(message, param)
                case AssistantMessage():
                    self._say("model", self._assistant(message, param))
        if not self.turns and not self.system:
            raise invalid("messages", "nothing is said in them")
        if not self.turns or self.turns[0]["role"] == "model":
            self.turns.insert(0, {"role": "user", "parts": [NOTHING]})  # a conversation begins with the user

    # Turns

    def _say(self, role: str, parts: list[Any]) -> None:
        """Add to the turn of this role, or begin one; nothing said makes no turn."""
        if not parts:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["parts"] += parts
            return
        self.turns.append({"role": role, "parts": parts})
        self._results = 0

    def _add_system(self, message: SystemMessage, param: str) -> None:
        parts = self._parts(parts_of(message.content), f"{param}.content")
        if any("text" not in part for part in parts):
            raise Unsupported(f"{param}.content", "a system message may only have text for this upstream")
        self.system += parts

    def _add_result(self, message: ToolMessage, param: str) -> None:
        """A result; those that belong to the same turn stand before whatever else it has."""
        name = self._called.get(message.tool_call_id) or message.name
        if not name:
            raise invalid(f"{param}.tool_call_id", "no call of this id stands before it")
        content = parts_of(message.content)
        text = "".join(part.text for part in content if isinstance(part, TextPart))
        media = [
            self._medium(part, f"{param}.content[{place}]")
            for place, part in enumerate(content)
            if not isinstance(part, TextPart)
        ]
        result: Block = {"id": message.tool_call_id, "name": self._names.fit(name)}
        result["response"] = {"error": text} if message.is_error else response_of(text)
        if is_third_generation(self._model):
            inside = [part for part in media if type_of(part) in IN_RESULTS]
            if inside:
                result["parts"] = inside
                media = [part for part in media if type_of(part) not in IN_RESULTS]
        block = {"functionResponse": result}
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns[-1]["parts"].insert(self._results, block)
        else:
            self._say("user", [block])
        self._results += 1
        self.turns[-1]["parts"] += media

    def _assistant(self, message: AssistantMessage, param: str) -> list[Any]:
        """Thoughts, words, calls, each with the signature that it came with."""
        calls = message.tool_calls or ()
        self._called |= {call.id: call.function.name for call in calls}
        kept = read_kept(message.extra_content)
        if kept.parts is not None and is_unchanged(kept.parts, message):
            return kept.parts
        details = [detail for detail in message.reasoning_details or () if detail.format == GEMINI]
        signatures = {detail.id: detail.data for detail in details if detail.data}
        made: list[Any] = [
            {"text": detail.text, "thought": True, **signed(detail.signature)} for detail in details if detail.text
        ]
        words = self._parts(parts_of(message.content), f"{param}.content")
        if not words and message.refusal:
            words = [{"text": message.refusal}]
        if words:
            words[-1] |= signed(kept.thought_signature or signatures.get(None))
        made += words
        for place, call in enumerate(calls):
            signature = read_kept(call.extra_content).thought_signature or signatures.get(call.id)
            if place == 0 and not signature and is_third_generation(self._model):
                signature = UNSIGNED
            arguments = parse_arguments(call.function.arguments)
            rendered = {"id": call.id, "name": self._names.fit(call.function.name), "args": arguments}
            made.append({"functionCall": rendered, **signed(signature)})
        return made or [NOTHING]  # without it the turns around it would be one

    # Parts

    def _parts(self, parts: Iterable[Part], param: str) -> list[Block]:
        """Parts as Gemini's, without empty text."""
        made: list[Block] = []
        for place, part in enumerate(parts):
            if isinstance(part, TextPart | RefusalPart):
                text = part.text if isinstance(part, TextPart) else part.refusal
                if text:
                    made.append({"text": text})
            else:
                made.append(self._medium(part, f"{param}[{place}]"))
        return made

    def _medium(self, part: Part, param: str) -> Block:
        """Something to see or hear. Raises Unsupported where the model can't."""
        match part:
            case ImagePart():
                if isinstance(part.image_url, ImageUrl) and part.image_url.detail:
                    self.details.add(part.image_url.detail)
                return self._source(part.url, param, "image")
            case AudioPart():
                sound = part.input_audio
                return self._inline(f"audio/{sound.format.lower()}", sound.data, param)
            case VideoPart():
                return self._source(part.video_url.url, param, "video")
            case FilePart():
                return self._file(part, param)
        raise invalid(param, "only text and media may stand here")

    def _file(self, part: FilePart, param: str) -> Block:
        """A document: by the id of a file at the Gemini API, by URL, or as it is."""
        file = part.file
        if file.file_id:
            if self._model.place or not file.file_id.startswith("files/"):
                raise Unsupported(param, f"file {file.file_id} was not uploaded to this upstream")
            return {"fileData": {"fileUri": UPLOADED + file.file_id}}
        data = file.file_data or ""
        if data.startswith(("data:", "https:", "http:", "gs:")):
            return self._source(data, param, "pdf")
        return self._inline(type_by_ending(file.filename or "") or USUAL["pdf"], data, param)

    def _source(self, url: str, param: str, kind: Modality) -> Block:
        """A URL of any kind."""
        data = split_data_url(url)
        if data is not None:
            return self._inline(*data, param)
        if YOUTUBE.match(url):
            self._check("video", param)
            return {"fileData": {"mimeType": USUAL["video"], "fileUri": url}}
        if FILES.match(url):
            return {"fileData": {"fileUri": url}}
        media_type = type_by_ending(urllib.parse.urlsplit(url).path) or USUAL[kind]
        modality = modality_of(media_type)
        self._check(modality, param)
        is_fetched = modality in self._model.urls and url.startswith(("https://", "http://", "gs://"))
        if not is_fetched:
            raise Unsupported(param, f"{self._model.id} fetches no such URL: what it names must be in the request")
        return {"fileData": {"mimeType": media_type, "fileUri": url}}

    def _inline(self, media_type: str, data: str, param: str) -> Block:
        self._check(modality_of(media_type), param)
        return {"inlineData": {"mimeType": media_type, "data": data}}

    def _check(self, modality: Modality, param: str) -> None:
        if modality not in self._model.inputs:
            raise Unsupported(param, f"{self._model.id} does not take {modality}")


def signed(signature: str | None) -> Block:
    """The field of a signature, if there is one."""
    return {"thoughtSignature": signature} if signature else {}


def response_of(text: str) -> Any:
    """A function's result must be an object; anything else becomes one."""
    if text[:1] == "{":
        try:
            decode_object(text)
            return msgspec.Raw(text.encode())
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            pass
    return {"result": text}


def type_of(part: Block) -> str:
    """The media type of a rendered part."""
    found: str = (part.get("inlineData") or part["fileData"]).get("mimeType", "")
    return found


def type_by_ending(path: str) -> str | None:
    """notes.txt → text/plain."""
    return TYPES.get(path.rpartition(".")[2].lower())


def modality_of(media_type: str) -> Modality:
    """image/png → image; whatever has no kind of its own is a document of text."""
    if media_type == USUAL["pdf"]:
        return "pdf"
    kind = media_type.partition("/")[0]
    match kind:
        case "image" | "audio" | "video":
            return kind
    return "text"


def read_kept(extra: Any) -> KeptContent:
    """Our or Google's `extra_content`; nothing where it is not what we wrote."""
    raw = (extra or {}).get(OPAQUE)
    try:
        return decode_kept(raw) if raw is not None else KeptContent()
    except msgspec.DecodeError:
        return KeptContent()


def is_unchanged(parts: Sequence[msgspec.Raw], message: AssistantMessage) -> bool:
    """Has the caller kept words and calls as they were?"""
    try:
        read = [decode_kept_part(part) for part in parts]
    except msgspec.DecodeError:
        return False
    text = "".join(part.text for part in read if not part.thought)
    calls = [part.function_call.id for part in read if part.function_call is not None]
    return text == words_of(message.content) and calls == [call.id for call in message.tool_calls or ()]
