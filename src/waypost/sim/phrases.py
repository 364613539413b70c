"""The sentences the simulator speaks. Each answer says plainly that no model wrote it."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

UNICODE = "Grüße, 日本語 and 🦉:"

_CAPITALS = {
    "france": "Paris",
    "japan": "Tokyo",
    "germany": "Berlin",
    "italy": "Rome",
    "spain": "Madrid",
    "portugal": "Lisbon",
    "austria": "Vienna",
    "canada": "Ottawa",
    "brazil": "Brasília",
    "kenya": "Nairobi",
}
_CAPITAL = re.compile(r"capital (?:city )?of ([a-z]+)", re.IGNORECASE)
_EXACTLY = re.compile(r"\b(?:reply|answer|respond|say) (?:with )?exactly:? *(.+)", re.IGNORECASE | re.DOTALL)

# (words that must all occur, the answer); the first that fits is given.
_BY_HEART: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("rate", "limit"),
        "A token bucket per key serves most APIs well. Each key owns a bucket that refills steadily; a request takes "
        "one token, and an empty bucket means 429 with a Retry-After. Keep the count where every server sees it and "
        "change it in one atomic step, so that two servers never spend the same token. The size of the bucket is the "
        "burst you allow, the refill rate is the limit you promise. (Waypost's simulator knows this one by heart.)",
    ),
    (
        ("diff",),
        "I read the diff as a reviewer would. The change does one thing, which is good; I would add a test for the "
        "empty input, name the magic number, and say in the commit message why the old behaviour was wrong. Nothing "
        "here blocks merging. (This review comes from Waypost's simulator: no model has seen your code.)",
    ),
    (
        ("review", "code"),
        "The code is short and easy to follow. I would give the error path a test, and return early instead of "
        "nesting the last branch. (This review comes from Waypost's simulator, which says so to everybody.)",
    ),
    (
        ("weather",),
        "I cannot see the sky from here: I am Waypost's simulator. Offer me a weather tool and I will call it, with "
        "the place you name; give me its result and I will tell you what it said.",
    ),
    (
        ("hello",),
        "Hello! You have reached Waypost's simulator: a stand-in for a model that answers by rule. "
        "Ask me anything; the answers are friendly, quick and not to be relied on.",
    ),
)
_OPENINGS = (
    "You asked about {topic}.",
    "A good question: {topic}.",
    "So, {topic}.",
    "Let us think about {topic}.",
)
_MIDDLES = (
    "I am Waypost's simulator, so no model has thought about it, but your request travelled the whole way: through "
    "the gateway, to an upstream, and back to you.",
    "This is Waypost's simulator speaking: I answer by rule and never read the news, yet everything around this text "
    "(the stream, the usage, the finish reason) is just what a provider would send.",
    "No model is behind these words, only Waypost's simulator, which turns every request into a short and polite "
    "paragraph of this kind.",
)
_CLOSINGS = (
    "Put a provider's key in the environment, and the same call reaches a real one.",
    "The same question gets the same answer, so tests can rely on it.",
    "Ask for a tool call, a JSON schema or a longer text, and you will get that too.",
)
_STORY = (
    "A simulator has one virtue that models lack: it says the same thing twice. "
    "The words go by like fence posts beside a road, each where the last one led you to expect it. "
    "Behind them run the counters, and every token that passes is written down. "
    "Somewhere a client reads along, chunk by chunk, and asks for nothing more than order."
)
_FILLER = _STORY.split()


def reply(asked: str, seed: int, shown: Sequence[str] = ()) -> str:
    """A short answer that refers to what was asked, and to what was shown with it.

    `seed` chooses between equally good ones.
    """
    if found := _EXACTLY.search(asked):
        return found.group(1).strip()
    text = _reply(asked, seed)
    return f"{text} With it came: {', '.join(shown)}." if shown else text


def _reply(asked: str, seed: int) -> str:
    lowered = asked.lower()
    if (found := _CAPITAL.search(asked)) and (city := _CAPITALS.get(found.group(1).lower())):
        country = found.group(1).capitalize()
        return f"The capital of {country} is {city}. (Waypost's simulator knows a few answers by heart; this is one.)"
    for words, answer in _BY_HEART:
        if all(word in lowered for word in words):
            return answer
    opening = _OPENINGS[seed % len(_OPENINGS)].format(topic=_topic(asked))
    middle = _MIDDLES[seed // 7 % len(_MIDDLES)]
    closing = _CLOSINGS[seed // 31 % len(_CLOSINGS)]
    return f"{opening} {middle} {closing}"


def after_tools(asked: str, results: list[str]) -> str:
    """An answer that passes on what the tools said."""
    said = "; ".join(" ".join(result.split()) or "nothing" for result in results)
    return f"You asked about {_topic(asked)}. The tool says: {said}. (Passed on by Waypost's simulator, unchecked.)"


def reasoning(asked: str) -> str:
    """The thoughts of a model that does not think."""
    return (
        f"The user wants to know about {_topic(asked)}. I am a simulator, so I have no knowledge to search; "
        "I pick the sentence that fits the words and say honestly where it comes from."
    )


@functools.lru_cache(64)
def stretch(text: str, count: int) -> str:
    """The text cut or continued to exactly `count` words."""
    words = text.split()[:count]
    missing = count - len(words)
    return " ".join(words + (_FILLER * (missing // len(_FILLER) + 1))[:missing])


def _topic(asked: str) -> str:
    """The question's first words in quotation marks, without the final punctuation."""
    words = asked.split()
    if not words:
        return "nothing in particular"
    topic = " ".join(words[:12])
    return f"“{topic[:120]}…”" if len(words) > 12 or len(topic) > 120 else f"“{topic.rstrip('.?!')}”"
