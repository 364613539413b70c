"""What a wire format is: the Protocol that every module for an upstream's format satisfies, and what they share.

How a format module is written
------------------------------
One module for requests and whole answers, one for streams where both would pass 500 lines. All of it is pure: bytes and
values in, bytes and values out; no clock, no dice, no globals that change. `anthropic_messages.py` is the example.

- `known_model(id)` says what is known of an upstream's model by its id: a `Model`. The configuration may replace any
  of its fields. Renderers ask the `Model`, never the id.
- `render_request(chat, model)` makes a `Rendered`. Three things may happen to what the format can't say:
  it is left out and named in `dropped` where the answer stays the same kind of answer (seed, logprobs, temperature);
  it raises `Unsupported` naming the field where leaving it out would change the meaning (n > 1, strict, a forced tool,
  a picture for a model that can't see), so that another target may be tried; or it is done by other means that the
  answer's parser undoes, for which `Reading` carries what it must know.
  `dropped` holds the caller's names of top-level fields (`unknown_fields(chat)` gives those that no format knows).
  Absent stays absent: no nulls, no defaults that the caller did not ask for, except what the upstream requires.
  What is wrong with the request itself, for every upstream, raises `errors.Refusal` (`invalid(param, why)`).
- `parse_response(body, reading)` makes a `Completion`, or raises `BadAnswer` where the next target should be tried.
- `stream_parser(reading)` gives a fresh parser for one answer. `feed(bytes)` takes any split of the bytes, inside of a
  UTF-8 character too, and returns events as soon as they are whole; `end()` is called once the upstream's body is
  complete. Neither raises: an error in the stream, an event that can't be read and an end without a finish are the
  event `Failed`, after which `done` is set and nothing more is said, so that what came before it is not lost.
  Usage is reported as often as the upstream does, each report the merged total so far.
  For the same answer, `fold(events)` equals what `parse_response` makes of the whole body: tests hold it to that.
- `parse_error(status, body)` makes a `Fault`. Matching words of a message is allowed there and nowhere else.
- Reasoning goes out as `ReasoningDelta` to be read, and as `ReasoningDone` with whatever must come back. Of the
  `reasoning_details` of a request only those with the format's own family in `format` are replayed; others are dropped
  silently: nobody but their maker can read them.
- `records.Usage` counts each token once; `max(0, …)` where an upstream's numbers don't add up.
- Wire facts name their source in the docstring.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import msgspec

from waypost.chat import Chat, Content, Effort, Object, Part, TextPart
from waypost.completion import AnyEvent, Completion, Failed, Fault, How
from waypost.errors import Refusal

Modality = Literal["text", "image", "pdf", "audio", "video"]
ReasoningStyle = Literal[
    "none",  # the model can't
    "effort",  # a word
    "budget",  # a number of tokens
    "adaptive",  # the model decides how much, an effort guides it (Anthropic)
    "level",  # a word, Gemini's spelling
    "toggle",  # on or off
]

# Tokens for each effort where a model takes a budget: contract.md 3.4.
BUDGETS: dict[Effort, int] = {
    "none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 32768, "max": 32768,
}  # fmt: skip
EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What a renderer must know of an upstream's model. Defaults are those of a capable, unknown one."""

    id: str
    inputs: frozenset[Modality] = frozenset({"text", "image"})
    urls: frozenset[Modality] = frozenset({"image"})  # of these, what the upstream fetches itself by https URL
    tools: bool = True
    forced_tools: bool = True  # tool_choice required or by name
    strict_tools: bool = True
    schema: bool = True  # response_format json_schema natively; else a forced tool
    schema_with_tools: bool = True
    json_object: bool = True
    sampling: Literal["all", "one", "none"] = "all"  # temperature and top_p: both, either, neither
    reasoning: ReasoningStyle = "none"
    efforts: tuple[Effort, ...] = ("low", "medium", "high")  # what may be asked for, least first
    reasons_by_default: bool = False
    must_reason: bool = False  # can't be turned off
    budgets: dict[Effort, int] = msgspec.field(default_factory=lambda: BUDGETS)
    default_output: int = 8192  # tokens, where the upstream demands a limit and the caller gave none
    max_output: int | None = None
    prefill: bool = True  # may the last message be the assistant's?
    inline_system: bool = False  # may a system message stand in the midst of a conversation?
    cache_from: int | None = None  # tokens of a prefix worth a breakpoint of ours; None: set none
    place: str = ""  # what a path needs besides the model, such as Vertex's projects/P/locations/L


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer's parser must know of its request."""

    schema_tool: str = ""  # calls of this tool are the text: a schema was asked of a model that has none
    names: dict[str, str] = {}  # the caller's names of tools, by those that the upstream was told
    first_call_only: bool = False  # parallel calls were forbidden where the upstream can't be told
    strip_fences: bool = False  # a JSON object was asked for in words: ``` around it are not part of it


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """A request for an upstream. `path` goes behind the provider's base_url; `headers` besides type and credentials."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    reading: Reading = Reading()


class StreamParser(Protocol):
    """One answer's bytes → events. Owned by one attempt."""

    done: bool  # the end has been seen: nothing more is to come
    id: str  # the upstream's id for the answer, once it is known
    model: str  # the model that the upstream says it is

    def feed(self, data: bytes) -> list[AnyEvent]:
        """What these bytes complete."""

    def end(self) -> list[AnyEvent]:
        """No more bytes come: Failed where the answer is not whole, unless that has been said."""


def failed(message: str, how: How = "broken") -> Failed:
    """The upstream's stream is not what it should be."""
    return Failed(Fault("server", message), how)


class Format(Protocol):
    """A module that speaks one format toward upstreams."""

    def known_model(self, id: str) -> Model:
        """What is known of a model by its id."""

    def render_request(self, chat: Chat, model: Model) -> Rendered:
        """Raises Unsupported (another target may do better), Refusal (none can)."""

    def parse_response(self, body: bytes, reading: Reading) -> Completion:
        """The body of a 200. Raises BadAnswer."""

    def stream_parser(self, reading: Reading) -> StreamParser:
        """A parser for one streamed answer."""

    def parse_error(self, status: int, body: bytes) -> Fault:
        """What a status that is not 200 means."""


class Unsupported(Refusal):
    """The request is well formed, but this upstream's model or format can't do it; `param` names what."""

    def __init__(self, param: str, why: str) -> None:
        super().__init__("INVALID_REQUEST", f"{param}: {why}.", param=param)


def invalid(param: str, why: str) -> Refusal:
    """A refusal that names the field: no upstream could do it."""
    return Refusal("INVALID_REQUEST", f"{param}: {why}.", param=param)


# What several formats need

decode_object = msgspec.json.Decoder(Object).decode
encode = msgspec.json.Encoder().encode
DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.IGNORECASE)


def unknown_fields(chat: Chat, known: Iterable[str] = ()) -> list[str]:
    """The fields that this vocabulary has no name for, without those that the format has use for."""
    return [name for name in chat.other if name not in frozenset(known)]


def parts_of(content: Content) -> Sequence[Part]:
    """Content as parts; none where it is empty."""
    if isinstance(content, str):
        return (TextPart(content),) if content else ()
    return content or ()


def text_of(content: Content, param: str) -> str:
    """Content as plain text. Raises Refusal where it has a part that is none."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = [part.text for part in content if isinstance(part, TextPart)]
    if len(texts) != len(content):
        raise invalid(param, "only text may stand here")
    return "".join(texts)


def words_of(content: Content) -> str:
    """The text in content, whatever else stands there."""
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content or () if isinstance(part, TextPart))


def split_data_url(url: str) -> tuple[str, str] | None:
    """data:image/png;base64,… → ("image/png", base64 text); None where it is no such URL. Raises Refusal.

    image/jpg, which many clients write and no registry has, is image/jpeg.
    """
    if url[:5].lower() != "data:":
        return None
    found = DATA_URL.match(url)
    if found is None or ";base64" not in found[2].lower():
        raise invalid("messages", "a data URL must be data:TYPE;base64,DATA")
    media_type = found[1].lower() or "text/plain"
    return "image/jpeg" if media_type == "image/jpg" else media_type, url[found.end() :]


def parse_arguments(text: str) -> msgspec.Raw:
    """A call's arguments as a JSON object; "" is the empty one.

    What a model broke off, or wrote as something else, is kept under the key `invalid_json`: the conversation can go on
    and the next model sees what happened.
    """
    if not text or text == "{}":
        return EMPTY_OBJECT
    try:
        decode_object(text)
        return msgspec.Raw(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    try:
        value = json.loads(text, strict=False, parse_constant=str)  # line ends inside of strings are a common slip
        if isinstance(value, dict):
            return msgspec.Raw(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode())
    except (ValueError, RecursionError):
        pass
    return msgspec.Raw(json.dumps({"invalid_json": text}, ensure_ascii=True).encode())


EMPTY_OBJECT = msgspec.Raw(b"{}")


class Names:
    """Names made fit for an upstream, one for one: characters that it does not take become `_`, long ones are cut."""

    def __init__(self, allowed: str, length: int) -> None:
        """`allowed`: the characters as inside of a regular expression's [ ]."""
        self._other = re.compile(f"[^{allowed}]")
        self._fit = re.compile(f"[{allowed}]{{1,{length}}}")
        self._length = length
        self._given: dict[str, str] = {}
        self._taken: set[str] = set()

    def fit(self, name: str) -> str:
        """The same for the same name, and never the same for two."""
        given = self._given.get(name)
        if given is None:
            given = name  # nearly always
            if not self._fit.fullmatch(name) or name in self._taken:
                stem = self._other.sub("_", name)[: self._length] or "_"
                given, number = stem, 2
                while given in self._taken:
                    given = f"{stem[: self._length - len(str(number)) - 1]}_{number}"
                    number += 1
            self._given[name] = given
            self._taken.add(given)
        return given

    def changed(self) -> dict[str, str]:
        """Those that are not what they were: the original by what was given for it."""
        return {given: name for name, given in self._given.items() if given != name}


class Thinking(msgspec.Struct, frozen=True):
    """A caller's wish and a model's ability, settled. `on` None: say nothing to the upstream."""

    on: bool | None
    effort: Effort | None = None  # one that the model has
    budget: int | None = None  # tokens; the caller's, or what the effort stands for; None: as much as it likes
    is_explicit: bool = False  # the caller gave the budget itself


def settle_thinking(chat: Chat, model: Model) -> Thinking:
    """What to tell a model about thinking: an effort and a budget that stand for the same, the nearest it can do."""
    wish = chat.reasoning
    if model.reasoning == "none":
        return Thinking(None)
    if wish.enabled is False:
        if model.must_reason:
            return Thinking(True, model.efforts[0], model.budgets[model.efforts[0]])
        return Thinking(False)
    if wish.enabled is None:
        return Thinking(None)
    if wish.max_tokens is not None:
        return Thinking(True, nearest_effort(effort_of(wish.max_tokens, model), model.efforts), wish.max_tokens, True)
    if wish.effort is None:
        return Thinking(True)
    effort = nearest_effort(wish.effort, model.efforts)
    return Thinking(True, effort, model.budgets[wish.effort])


def wish_to_think(chat: Chat) -> str:
    """The caller's field for it, as it is named where it is dropped."""
    return "reasoning_effort" if chat.reasoning.effort is not None else "reasoning"


def unheard_wish(chat: Chat, model: Model) -> list[str]:
    """The name of a wish to think that is put to a model that can't; not to think is no wish to it."""
    return [wish_to_think(chat)] if chat.reasoning.enabled and model.reasoning == "none" else []


def nearest_effort(asked: Effort, efforts: Sequence[Effort]) -> Effort:
    """The highest that the model has up to the one asked for; its lowest where all are higher."""
    rank = EFFORTS.index(asked)
    below = [effort for effort in efforts if EFFORTS.index(effort) <= rank]
    return below[-1] if below else efforts[0]


def effort_of(budget: int, model: Model) -> Effort:
    """The effort that a number of tokens stands for."""
    fitting = [effort for effort in EFFORTS[1:] if model.budgets[effort] <= budget]
    return fitting[-1] if fitting else "minimal"
