"""Does an answer keep to the schema that was asked for? Asked where the upstream does not see to it itself."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from waypost.chat import ResponseFormat
from waypost.completion import Completion
from waypost.formats.format import Reading

Judge = Callable[[Completion], str]
QUOTED = 200  # characters of a validator's words
ANY_OBJECT = '{"type":"object"}'


def judge_of(wanted: ResponseFormat | None, reading: Reading, is_native: bool) -> Judge:
    """What tells of a whole answer why it is not the one that was asked for, or "" where it is.

    `is_native`: the upstream can hold its model to a schema, and did unless it was asked by a tool or in words. Only
    whole answers can be judged: of a stream the beginning has gone to the caller.
    """
    is_emulated = bool(reading.schema_tool) or reading.strip_fences
    if wanted is None or (not is_emulated and (is_native or wanted.schema is None)):
        return accept
    schema = ANY_OBJECT if wanted.schema is None else bytes(wanted.schema).decode()

    def judge(completion: Completion) -> str:
        for choice in completion.choices:
            if choice.finish_reason == "stop" and not choice.tool_calls and not choice.refusal:
                wrong = fault_of(schema, choice.text or "")
                if wrong:
                    return f"the model's answer is not what was asked for: {wrong}"
        return ""

    return judge


def accept(completion: Completion) -> str:
    """Nothing is wrong with it."""
    return ""


def fault_of(schema: str, text: str) -> str:
    """Why a text is not JSON of a schema; "" where it is. A schema that the validator does not take judges nothing."""
    import jsonschema_rs  # only now: few requests need it

    try:
        # The schema is the caller's: references lead nowhere but into itself, and patterns take linear time.
        validator = jsonschema_rs.validator_for(schema, offline=True, pattern_options=jsonschema_rs.RegexOptions())
    except (ValueError, RecursionError):
        return ""  # the upstream has taken it
    try:
        validator.validate(msgspec.json.decode(text))
    except jsonschema_rs.ValidationError as error:
        return " ".join(error.message.split())[:QUOTED]
    except (msgspec.DecodeError, RecursionError):
        return "it is not JSON"
    return ""
