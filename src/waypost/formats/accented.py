"""A request of OpenAI's format, said in a provider's accent (`accents.py`). Pure.

Where an accent changes nothing, the very object that came in goes out: what is plain stays as the caller wrote it, and
prompts are decoded only where a needle shows that something in them must change. A needle with unescaped quotes can't
stand inside of a JSON string, so that words of a prompt are none.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any

import msgspec

from waypost.chat import Object, Reasoning, ResponseFormat
from waypost.formats.accents import Accent, ForModels, Json, Switch
from waypost.formats.format import BUDGETS, EFFORTS, Unsupported, encode, invalid, nearest_effort
from waypost.formats.openai_chat import NULL, TRUE, Fields
from waypost.formats.openai_request import DECODERS, decode_field, parse_reasoning

# The ways in which a caller may speak of thinking.
WISHES = frozenset({"reasoning", "reasoning_effort", "thinking"})
LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
# What messages may have beyond OpenAI's own fields.
EXTENSIONS = frozenset({
    "reasoning_content", "reasoning", "reasoning_details", "extra_content", "cache_control", "is_error",
})  # fmt: skip
REASONING = b'"reasoning'  # how three of them begin
ONLY_JSON = "Answer with one JSON object and nothing else: no other words, no code fence."
ANY_OBJECT = b'{"type":"json_schema","json_schema":{"name":"response","schema":{"type":"object"}}}'
ONE = msgspec.Raw(b"1")
FILE = msgspec.Raw(b'"file"')
PICTURE = msgspec.Raw(b'"image_url"')
PAPER = b'"data:application/pdf'
EMPTY_LIST = msgspec.Raw(b"[]")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

decode_object = msgspec.json.Decoder(Object).decode
decode_objects = msgspec.json.Decoder(list[Object]).decode
decode_any = msgspec.json.Decoder().decode
decode_text = msgspec.json.Decoder(str).decode


def begins(raw: msgspec.Raw, character: bytes) -> bool:
    """Is it of this kind: a text, an array, an object?"""
    return bytes(raw).startswith(character)


def has(raw: msgspec.Raw, needle: bytes) -> bool:
    """Does it stand in there?"""
    return bytes(raw).find(needle) >= 0


class Spoken(msgspec.Struct, frozen=True):
    """A request as the provider wants it. `dropped`: the caller's fields that it can't take."""

    fields: Fields
    dropped: tuple[str, ...] = ()
    hides_reasoning: bool = False  # the caller does not want to see it, and the provider may send it
    in_words: ResponseFormat | None = None  # the shape of the answer, where the provider could only be told in words


# Requests


def speak(accent: Accent, fields: Fields, model: str) -> Spoken:
    """A caller's fields in a provider's accent; `model` is the upstream's id. Raises Unsupported, Refusal."""
    said = Saying(fields)
    dropped: list[str] = []
    if not accent.drops.isdisjoint(fields):
        dropped += [name for name in fields if name in accent.drops and fields[name] != NULL]
    for special in accent.special:
        if (special.adds or not special.drops.isdisjoint(fields)) and re.search(special.models, model):
            dropped += specially(said, special)
    for name in dropped:
        said.remove(name)
    rename(said, accent, model)
    in_words = shape(said, accent)
    choose(said, accent)
    hides = False
    if not WISHES.isdisjoint(fields):
        unheard, hides = think(said, accent, model)
        dropped += unheard
    messages = converse(said.fields["messages"], accent) if "messages" in said.fields else None
    if messages is not None:
        said.set("messages", messages)
    return Spoken(said.fields, tuple(dict.fromkeys(dropped)), hides, in_words)


class Saying:
    """Fields in the making: copied when the first of them changes."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self._theirs = fields

    def set(self, name: str, value: bytes) -> None:
        """Say it so."""
        if self.fields is self._theirs:
            self.fields = self._theirs.copy()
        self.fields[name] = msgspec.Raw(value)

    def remove(self, name: str) -> None:
        """Say nothing of it."""
        if name in self.fields:
            if self.fields is self._theirs:
                self.fields = self._theirs.copy()
            del self.fields[name]


def specially(said: Saying, special: ForModels) -> list[str]:
    """What holds for these models: fields added where the caller has none, and the names of those to drop."""
    for name, value in special.adds.items():
        if name not in said.fields:
            said.set(name, encode(value))
    return [name for name in special.drops if said.fields.get(name, NULL) != NULL]


def rename(said: Saying, accent: Accent, model: str) -> None:
    """Fields under the names that the provider knows. Raises Unsupported for more answers than one."""
    if not accent.many and said.fields.get("n", NULL) not in (ONE, NULL):
        raise Unsupported("n", f"{model} gives one answer at a time")
    for theirs, ours in accent.renames.items():
        if theirs in said.fields:
            value = said.fields[theirs]
            said.remove(theirs)
            said.set(ours, value)
    if accent.limit and not LIMITS.isdisjoint(said.fields) and re.search(accent.limit_models, model):
        other = "max_tokens" if accent.limit == "max_completion_tokens" else "max_completion_tokens"
        # Of two limits max_completion_tokens counts.
        wins = "max_completion_tokens" if said.fields.get("max_completion_tokens", NULL) != NULL else "max_tokens"
        if other in said.fields:
            limit = said.fields.get(wins, NULL)
            said.remove(other)
            said.set(accent.limit, limit)
    if not accent.stream_usage:
        said.remove("stream_options")


class WantedShape(msgspec.Struct, frozen=True):
    """`response_format`, as far as it must be read."""

    type: str = "text"
    json_schema: Object = {}


decode_shape = msgspec.json.Decoder(WantedShape).decode


def shape(said: Saying, accent: Accent) -> ResponseFormat | None:
    """`response_format` where the provider has not all of it: the other kind, and words; what is in words alone.

    Raises Unsupported.
    """
    raw = said.fields.get("response_format", NULL)
    if raw == NULL or len(accent.shapes) == 2:
        return None
    wanted = decode_field("response_format", raw, decode_shape)
    if wanted.type not in ("json_object", "json_schema") or wanted.type in accent.shapes:
        return None
    if wanted.type == "json_object" and "json_schema" in accent.shapes:
        said.set("response_format", ANY_OBJECT)
        return None
    words, in_words = ONLY_JSON, ResponseFormat("json_object")
    if wanted.type == "json_schema":
        if wanted.json_schema.get("strict", NULL) == TRUE:
            raise Unsupported("response_format", "this upstream cannot hold itself to a schema")
        schema = wanted.json_schema.get("schema", NULL)
        words = f"{ONLY_JSON} It must obey this JSON Schema: {bytes(schema).decode()}"
        in_words = ResponseFormat("json_schema", schema=schema)
    if "json_object" in accent.shapes:
        said.set("response_format", b'{"type":"json_object"}')
    else:
        said.remove("response_format")
    said.set("messages", instructed(said.fields.get("messages", EMPTY_LIST), words))
    return in_words


def instructed(messages: msgspec.Raw, words: str) -> bytes:
    """Messages with an instruction before them; they are not decoded."""
    rest = bytes(messages).strip()[1:].lstrip()
    first = encode({"role": "system", "content": words})
    return b"[%b%b%b" % (first, b"" if rest.startswith(b"]") else b",", rest)


def choose(said: Saying, accent: Accent) -> None:
    """`tool_choice` and `strict` in tools. Raises Unsupported for a choice that the provider does not have."""
    raw = said.fields.get("tool_choice", NULL)
    if raw != NULL and (accent.refuses or accent.choices):
        value = decode_field("tool_choice", raw, decode_any)
        kind = value if isinstance(value, str) else "function"
        if kind in accent.refuses:
            raise Unsupported("tool_choice", "this upstream cannot be made to call a tool")
        if kind in accent.choices:
            said.set("tool_choice", encode(accent.choices[kind]))
    tools = said.fields.get("tools", NULL)
    has_mark = "cache_control" not in accent.keeps and has(tools, b'"cache_control"')
    has_strict = not accent.strict and has(tools, b'"strict"')
    if tools != NULL and (has_mark or has_strict):
        said.set("tools", encode([plain_tool(tool, accent) for tool in decode_field("tools", tools, decode_objects)]))


def plain_tool(tool: Object, accent: Accent) -> Object:
    """A tool without what the provider does not know. Raises Unsupported for a function that must be strict."""
    if "cache_control" not in accent.keeps:
        tool.pop("cache_control", None)
    if not accent.strict and "function" in tool:
        function = decode_object(tool["function"])
        if function.pop("strict", NULL) == TRUE:
            raise Unsupported("tools", "this upstream cannot hold itself to a schema")
        tool["function"] = msgspec.Raw(encode(function))
    return tool


# Thinking


def think(said: Saying, accent: Accent, model: str) -> tuple[list[str], bool]:
    """The caller's wish in the provider's words; the names of what it can't be told, and whether to hide it."""
    asked = sorted(name for name in WISHES if said.fields.get(name, NULL) != NULL)
    switch = next((one for one in accent.switches if re.search(one.models, model)), None)
    if switch is not None and asked and all(is_word_of(switch, name, said.fields[name]) for name in asked):
        return [], False
    wish = parse_reasoning({name: decode_field(name, said.fields[name], DECODERS[name]) for name in asked})
    if switch is not None and set(asked) <= switch.native and takes_word(switch, wish):
        return [], wish.exclude
    for name in asked:
        said.remove(name)
    if wish.enabled is None:
        return [], wish.exclude
    if switch is None or (not wish.enabled and switch.off is None and not switch.efforts):
        return asked, wish.exclude
    made: Json = {}
    if not wish.enabled:
        merge(made, switch.off if switch.off is not None else at(switch.effort, switch.efforts[0]))
    else:
        merge(made, switch.on)
        if switch.budget and (wish.max_tokens is not None or (wish.effort is not None and not switch.effort)):
            merge(made, at(switch.budget, wish.max_tokens or BUDGETS[wish.effort or "medium"]))
        elif switch.effort and (wish.effort is not None or wish.max_tokens is not None):
            word = wish.effort or effort_for(wish.max_tokens or 0)
            merge(made, at(switch.effort, nearest_effort(word, switch.efforts)))
    if not made and (wish.effort is not None or wish.max_tokens is not None):
        return asked, wish.exclude
    for name, value in made.items():
        said.set(name, encode(completed(said.fields.get(name), value)))
    return [], wish.exclude


def is_word_of(switch: Switch, name: str, value: msgspec.Raw) -> bool:
    """Has the caller said it in the provider's own words?"""
    return any(name in said and msgspec.Raw(encode(said[name])) == value for said in (switch.on, switch.off or {}))


def takes_word(switch: Switch, wish: Reasoning) -> bool:
    """Is the word that the caller has said one that would not be refused?"""
    word = "none" if wish.enabled is False else wish.effort
    return not switch.refuses_others or word is None or word in switch.efforts


def effort_for(budget: int) -> Any:
    """The word that a number of tokens stands for."""
    fitting = [effort for effort in EFFORTS[1:] if BUDGETS[effort] <= budget]
    return fitting[-1] if fitting else "minimal"


def at(path: str, value: Any) -> Json:
    """A value at its place."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def merge(made: Json, more: Json) -> None:
    """Objects become one, whatever they have in them."""
    for name, value in more.items():
        if isinstance(value, dict):
            inner = dict(made.get(name) or {})
            merge(inner, value)
            made[name] = inner
        else:
            made[name] = value


def completed(theirs: msgspec.Raw | None, ours: Any) -> Any:
    """The caller's own object, such as chat_template_kwargs, with what we say in it; theirs counts."""
    if theirs is None or not isinstance(ours, dict):
        return ours
    try:
        return {**ours, **decode_object(theirs)}
    except msgspec.DecodeError:
        return ours


# Messages


def converse(messages: msgspec.Raw, accent: Accent) -> bytes | None:
    """The messages in the accent; None where nothing in them must change. Raises Refusal."""
    text = bytes(messages)
    plain, others = needles(accent)
    has_others = text.find(b"_") >= 0 and (
        any(text.find(needle) >= 0 for needle in others) or has_misplaced_media(text, accent)
    )
    if not has_others and not any(text.find(needle) >= 0 for needle in plain):
        return None
    try:
        said = decode_objects(messages)
        for message in said:
            change_message(message, accent)
        return encode(said if accent.result_pictures else with_pictures_apart(said))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("messages", f"are not what they should be: {error}") from None


@functools.cache
def needles(accent: Accent) -> tuple[list[bytes], list[bytes]]:
    """What must stand in the messages for something to change: without a `_`, which most prompts have not, and with."""
    found = {REASONING if name.startswith("reasoning") else b'"%b"' % name.encode() for name in unknown(accent)}
    if not accent.developer:
        found.add(b'"developer"')
    if accent.call_id:
        found |= {b'"tool_calls"', b'"tool_call_id"'}
    if not accent.names:
        found.add(b'"name"')
    if accent.documents != "file":
        found.add(b'"file"')
    return sorted(one for one in found if b"_" not in one), sorted(one for one in found if b"_" in one)


def has_misplaced_media(messages: bytes, accent: Accent) -> bool:
    """May there be a PDF where a picture is said to be, or a picture in a tool's result that takes none?"""
    if messages.find(bytes(PICTURE)) < 0:
        return False
    return messages.find(PAPER) >= 0 or (not accent.result_pictures and messages.find(b'"tool_call_id"') >= 0)


def unknown(accent: Accent) -> frozenset[str]:
    """Extensions of messages that the provider does not know."""
    return EXTENSIONS - accent.keeps


def change_message(message: Object, accent: Accent) -> None:
    """One message, changed in place."""
    role = decode_text(message.get("role", msgspec.Raw(b'""')))
    if role == "developer" and not accent.developer:
        message["role"] = msgspec.Raw(b'"system"')
    reasoning = message.get("reasoning_content", NULL)
    if reasoning == NULL:
        reasoning = message.get("reasoning", NULL)
    for name in unknown(accent):
        message.pop(name, None)
    if not accent.names and role != "tool":
        message.pop("name", None)
    change_content(message, accent)
    if role == "assistant" and begins(reasoning, b'"'):
        replay(message, accent, reasoning)
    if accent.call_id:
        fit_ids(message, accent)


def replay(message: Object, accent: Accent, reasoning: msgspec.Raw) -> None:
    """The assistant's own reasoning, as the provider takes it back; nowhere if it does not."""
    if accent.replay in ("reasoning", "reasoning_content"):
        message[accent.replay] = reasoning
    elif accent.replay == "parts":
        content = message.get("content", NULL)
        parts: list[Any] = [{"type": "thinking", "thinking": [{"type": "text", "text": reasoning}]}]
        if begins(content, b'"'):
            parts += [{"type": "text", "text": content}] if bytes(content) != b'""' else []
        elif content != NULL:
            parts += decode_objects(content)
        message["content"] = msgspec.Raw(encode(parts))


def change_content(message: Object, accent: Accent) -> None:
    """Parts of content: no breakpoints where they are not known, documents as the provider writes them."""
    content = message.get("content", NULL)
    has_mark = "cache_control" not in accent.keeps and has(content, b'"cache_control"')
    has_paper = has(content, bytes(PICTURE)) and has(content, PAPER)
    has_file = accent.documents != "file" and (has_paper or has(content, b'"file"'))
    if not begins(content, b"[") or not (has_mark or has_file or has_paper):
        return
    parts = decode_objects(content)
    for part in parts:
        if has_mark:
            part.pop("cache_control", None)
        if has_paper and part.get("type") == PICTURE and has(part["image_url"], PAPER):
            image = decode_any(part.pop("image_url"))
            url = image if isinstance(image, str) else image["url"]
            part["type"] = FILE
            part["file"] = msgspec.Raw(encode({"filename": "document.pdf", "file_data": url}))
        if has_file and part.get("type") == FILE:
            url = document_url(decode_object(part["file"]))
            part.clear()
            part["type"] = msgspec.Raw(encode(accent.documents))
            part[accent.documents] = msgspec.Raw(encode(url))
    message["content"] = msgspec.Raw(encode(parts))


def with_pictures_apart(messages: list[Object]) -> list[Object]:
    """Messages in which pictures follow the results of a turn, in the user's name, where they stood in them."""
    made: list[Object] = []
    apart: list[Any] = []
    for message in messages:
        is_result = "tool_call_id" in message
        if apart and not is_result:
            made.append(said_by_user(apart))
            apart = []
        content = message.get("content", NULL)
        if is_result and begins(content, b"[") and has(content, bytes(PICTURE)):
            parts = decode_objects(content)
            pictures = [part for part in parts if part.get("type") == PICTURE]
            words = [part for part in parts if part.get("type") != PICTURE]
            apart += [{"type": "text", "text": f"The result of {decode_text(message['tool_call_id'])}:"}, *pictures]
            message["content"] = msgspec.Raw(encode(words or "It follows."))
        made.append(message)
    return [*made, said_by_user(apart)] if apart else made


def said_by_user(parts: list[Any]) -> Object:
    """A message of the user's."""
    return {"role": msgspec.Raw(b'"user"'), "content": msgspec.Raw(encode(parts))}


def document_url(file: Object) -> str:
    """Where a document is, or what it is. Raises Unsupported for one that was uploaded elsewhere."""
    if "file_data" not in file:
        raise Unsupported("messages", "a file that was uploaded elsewhere can't be sent to this upstream")
    data = decode_text(file["file_data"])
    return data if data.startswith(("data:", "https:", "http:")) else f"data:application/pdf;base64,{data}"


def fit_ids(message: Object, accent: Accent) -> None:
    """Ids of calls and results that the provider takes: others become ones that are made of them, always the same."""
    if "tool_call_id" in message:
        id = decode_text(message["tool_call_id"])
        message["tool_call_id"] = msgspec.Raw(encode(fit_id(id, accent.call_id)))
    calls = message.get("tool_calls", NULL)
    if calls != NULL:
        made = decode_objects(calls)
        for call in made:
            if "id" in call:
                call["id"] = msgspec.Raw(encode(fit_id(decode_text(call["id"]), accent.call_id)))
        message["tool_calls"] = msgspec.Raw(encode(made))


def fit_id(id: str, pattern: str) -> str:
    """The id itself if it fits, else nine letters and digits."""
    if re.fullmatch(pattern, id):
        return id
    number = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big")
    made = []
    for _ in range(9):
        number, place = divmod(number, len(DIGITS))
        made.append(DIGITS[place])
    return "".join(made)
