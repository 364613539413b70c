"""What the simulator says: a question in, an answer out, by rule alone (no clock, no chance, no network)."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import msgspec

from waypost.sim import phrases
from waypost.sim.json_example import Hints, example_json
from waypost.sim.options import Behaviour

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "malformed"]

_NONCE = re.compile(r"nonce:[A-Za-z0-9_-]+")
_PLACES = re.compile(
    r"\b(?:in|for|of|at) ((?:[^\W\d_a-z][\w'’-]*)(?:(?:, and |, | and | )(?:in )?[^\W\d_a-z][\w'’-]*)*)"
)
_AFTER_IN = re.compile(r"\bin ([\w '’-]+)")
_TEXT_TOKEN = 4
_DEFAULT_PLACES = ("Paris", "Tokyo")


class Tool(msgspec.Struct, frozen=True):
    """A function the caller offers; `parameters` is its JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]


class Media(msgspec.Struct, frozen=True):
    """An image, document or the like in a message; `label` is its type and size, or its address."""

    kind: str
    label: str


class Embedding(msgspec.Struct, frozen=True):
    """What is to be embedded, and how: `encodings` as the format names them; dimensions None for the model's own."""

    texts: tuple[str, ...]
    dimensions: int | None = None
    encodings: tuple[str, ...] = ()


class Question(msgspec.Struct, frozen=True):
    """A request, whatever format it came in.

    `asked` is the text of the last user message, `media` what came with it; `prompt` the text of all messages joined
    by line feeds; `tool_results` the tool messages after the last other one, `tool_result_ids` the calls they answer;
    `called` the names of the tools called so far.
    `tool_choice` is auto, none, required or the name of a tool after a colon (`:get_weather`).
    `schema` is the JSON schema the answer has to satisfy, {} for any object, None for text.
    `reasoning_shown` is False where the model is to think but keep it to itself.
    `cached` tells whether the prompt's beginning is taken from a cache; `cache_written` is the lifetime asked for
    where the caller has the rest of it written to one (`5m`, `1h`).
    `embedding` is there where the request is no chat at all.
    """

    model: str
    asked: str
    prompt: str
    stream: bool = False
    include_usage: bool = False
    tool_results: tuple[str, ...] = ()
    called: frozenset[str] = frozenset()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel: bool = True
    schema: dict[str, Any] | None = None
    reasoning: bool = False
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    media: tuple[Media, ...] = ()
    tool_result_ids: tuple[str, ...] = ()
    reasoning_shown: bool = True
    cached: bool = True
    cache_written: str | None = None
    embedding: Embedding | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """A call the answer makes; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class Choice(msgspec.Struct, frozen=True):
    """One of the answer's choices. With `tool_calls` the text is empty. `stop` is the stop sequence that ended it."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    stop: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens: one for every four characters, begun ones counted. `completion` includes `reasoning`.

    `prompt` includes `cached` and `written`: read from a cache and written to one.
    """

    prompt: int
    cached: int
    completion: int
    reasoning: int
    written: int = 0


class Answer(msgspec.Struct, frozen=True):
    """What to say, before any format has rendered it."""

    seed: int
    choices: tuple[Choice, ...]
    usage: Usage


def decide(question: Question, behaviour: Behaviour) -> Answer:
    """The answer to a question. The same question gets the same answer, whatever options its model name carries."""
    digest = hashlib.blake2b(f"{behaviour.name}\0{question.prompt}".encode("utf-8", "replace"), digest_size=8)
    seed = int.from_bytes(digest.digest(), "big")
    if question.embedding is not None:
        return Answer(seed, (), Usage(sum(tokens(text) for text in question.embedding.texts), 0, 0, 0))
    choices = tuple(_choice(question, behaviour, seed + index) for index in range(question.n))
    return Answer(seed, choices, _usage(question, behaviour, choices))


def tokens(text: str) -> int:
    """How many tokens a text is, by the simulator's rule."""
    return -(-len(text) // _TEXT_TOKEN)


def nonce(text: str) -> str | None:
    """The first `nonce:…` in a text, which the answer repeats exactly once so that tests notice cross-talk."""
    found = _NONCE.search(text) if "nonce:" in text else None
    return found.group() if found else None


def places(text: str) -> list[str]:
    """The places a question names ("in Tokyo and Paris"), in order."""
    if found := _PLACES.search(text):
        return [part.removeprefix("in ") for part in re.split(r", and |, | and ", found.group(1))]
    if found := _AFTER_IN.search(text):
        return [found.group(1).strip()]
    return []


def _choice(question: Question, behaviour: Behaviour, seed: int) -> Choice:
    if behaviour.blocked or behaviour.malformed:
        return Choice("", "", (), "malformed" if behaviour.malformed else "content_filter")
    thinking = question.reasoning or "-thinking" in behaviour.name
    reasoning = phrases.reasoning(_without_nonce(question.asked)) if thinking else ""
    finish: FinishReason = "content_filter" if behaviour.content_filter else "stop"
    calls = _tool_calls(question, seed)
    text = "" if calls else _text(question, behaviour, seed)
    if calls:
        finish = "tool_calls"
    cuts = [(at, stop) for stop in question.stop if stop and (at := text.find(stop)) >= 0]
    hit = None
    if cuts:
        at, hit = min(cuts)
        text = text[:at]
    choice = Choice(text, reasoning, calls, finish, hit)
    return choice if question.max_tokens is None else _within(choice, question.max_tokens)


def _within(choice: Choice, limit: int) -> Choice:
    """Cut to `limit` tokens; reasoning comes first and eats from the same budget."""
    reasoning = choice.reasoning[: limit * _TEXT_TOKEN]
    left = limit - tokens(reasoning)
    text = choice.text[: left * _TEXT_TOKEN]
    left -= tokens(text)
    calls = []
    for call in choice.tool_calls:
        arguments = call.arguments[: left * _TEXT_TOKEN]
        left -= tokens(arguments)
        calls.append(msgspec.structs.replace(call, arguments=arguments))
    cut = msgspec.structs.replace(choice, text=text, reasoning=reasoning, tool_calls=tuple(calls))
    return cut if cut == choice else msgspec.structs.replace(cut, finish_reason="length", stop=None)


def _usage(question: Question, behaviour: Behaviour, choices: tuple[Choice, ...]) -> Usage:
    prompt = max(1, tokens(question.prompt))
    # OpenAI caches prefixes from 1,024 tokens on, in steps of 128; the simulator acts as if every prefix were warm.
    warm = prompt // 128 * 128 if prompt >= 1024 and question.cached else 0
    cached = min(behaviour.cached if behaviour.cached is not None else warm, prompt)
    # Of a prompt with a breakpoint at its end all but a few tokens go into the cache.
    cold = max(0, prompt - cached - 4) if question.cache_written and warm else 0
    written = min(behaviour.cache_written if behaviour.cache_written is not None else cold, prompt - cached)
    reasoning = sum(tokens(choice.reasoning) for choice in choices)
    said = sum(tokens(c.text) + sum(tokens(call.arguments) for call in c.tool_calls) for c in choices)
    return Usage(prompt, cached, said + reasoning, reasoning, written)


def _text(question: Question, behaviour: Behaviour, seed: int) -> str:
    if behaviour.echo:
        return question.asked
    mark = nonce(question.asked)
    asked = _without_nonce(question.asked)
    if question.schema is not None:
        hints = Hints(asked=asked, places=places(asked), first_string=mark)
        return example_json(question.schema, hints)
    if question.tool_results:
        text = phrases.after_tools(asked, [_without_nonce(result) for result in question.tool_results])
    else:
        text = phrases.reply(asked, seed, [f"{media.kind} ({media.label})" for media in question.media])
    if behaviour.unicode:
        text = f"{phrases.UNICODE} {text}"
    if mark:
        text = f"{mark} {text}"
    return text if behaviour.words is None else phrases.stretch(text, behaviour.words)


def _without_nonce(text: str) -> str:
    return _NONCE.sub("", text).strip() if "nonce:" in text else text


def _tool_calls(question: Question, seed: int) -> tuple[ToolCall, ...]:
    tool = _tool(question)
    if tool is None:
        return ()
    asked = _without_nonce(question.asked)
    wanted = places(asked)
    count = 1
    if question.parallel and (len(wanted) > 1 or "parallel" in asked.lower()):
        count = max(2, len(wanted))
    wanted += [place for place in _DEFAULT_PLACES if place not in wanted][: max(0, count - len(wanted))]
    calls = []
    for index in range(count):
        hints = Hints(asked=asked, places=wanted[index:])
        identity = hashlib.blake2b(b"%d %d" % (seed, index), digest_size=12).hexdigest()
        calls.append(ToolCall(f"call_{identity}", tool.name, example_json(tool.parameters, hints)))
    return tuple(calls)


def _tool(question: Question) -> Tool | None:
    """The tool to call: the one asked for by name, or the one whose words fit the question best.

    After tool results the answer is text, unless a call is required and some tool has not been called yet.
    """
    offered = question.tools
    if not offered or question.tool_choice == "none":
        return None
    if question.tool_results:
        offered = tuple(tool for tool in offered if tool.name not in question.called)
        if question.tool_choice != "required" or not offered:
            return None
    if question.tool_choice.startswith(":"):
        return next((tool for tool in offered if tool.name == question.tool_choice[1:]), None)
    words = set(re.findall(r"\w+", question.asked.lower()))

    def fit(tool: Tool) -> int:
        return len(words & set(re.findall(r"[^\W_]+", f"{tool.name} {tool.description}".lower())))

    return max(offered, key=fit)
