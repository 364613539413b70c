"""The accents of OpenAI's format: what each provider that speaks it wants differently. Data alone.

`accented.py` applies it; nothing else asks for a provider's name. A provider without a row gets `UNKNOWN`.

Where each row is from stands in `SOURCES`. What no source says stays as OpenAI has it, and where a source is missing a
row errs on the side of leaving something out: a field that was dropped is listed for the caller, one that was refused
would cost the attempt.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from waypost.chat import Effort

Json = dict[str, Any]
Shape = Literal["json_object", "json_schema"]
EVERY: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
THREE: tuple[Effort, ...] = ("low", "medium", "high")


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """How thinking is asked for, of models whose id has `models` in it (a pattern); paths are dotted."""

    models: str = ""
    native: frozenset[str] = frozenset()  # of the caller's own ways to ask, those that are understood as they stand
    on: Json = {}
    off: Json | None = None  # None: it can't be turned off, and goes as low as it can
    effort: str = ""  # where the word goes
    efforts: tuple[Effort, ...] = ()  # the words it has, least first
    refuses_others: bool = False  # a word that is none of them would be refused, however native the way to ask
    budget: str = ""  # where the number of tokens goes


class ForModels(msgspec.Struct, frozen=True):
    """Something that holds for models whose id has the pattern in it."""

    models: str
    drops: frozenset[str] = frozenset()
    adds: Json = {}  # unless the caller has said it


class Accent(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One provider's. Defaults are OpenAI's own ways. Itself alone is its equal, so that it can be a key."""

    limit: Literal["", "max_tokens", "max_completion_tokens"] = ""  # the one it knows; "" where it knows both
    limit_models: str = ""  # … of models whose id has this pattern in it
    developer: bool = True  # the role; else it is a system message
    renames: dict[str, str] = {}  # top-level fields
    drops: frozenset[str] = frozenset()  # top-level fields that it refuses
    special: tuple[ForModels, ...] = ()
    many: bool = True  # n may be more than 1
    stream_usage: bool = True  # it knows stream_options; else it says its usage anyway
    shapes: frozenset[Shape] = frozenset({"json_object", "json_schema"})  # of response_format
    strict: bool = True  # function.strict may stand in a tool
    choices: dict[str, str] = {}  # words of tool_choice that it spells otherwise
    refuses: frozenset[str] = frozenset()  # ways to say tool_choice that it does not have: required, function
    names: bool = True  # messages may have a name
    call_id: str = ""  # the only ids of calls that it takes: a pattern
    documents: Literal["file", "document_url"] = "file"  # how a document is written
    result_pictures: bool = False  # pictures may stand in a tool's result; else they follow it in the user's name
    switches: tuple[Switch, ...] = ()
    replay: Literal["", "reasoning_content", "reasoning", "parts"] = ""  # how an assistant's reasoning comes back
    keeps: frozenset[str] = frozenset()  # extensions in messages that it understands: reasoning_details, cache_control
    finish: dict[str, str] = {}  # finish reasons of its own
    sources: str = ""  # a top-level list of pages that the answer rests on: objects with url and title
    is_plain: bool = False  # its answers are OpenAI's, byte for byte


WORD = Switch(native=frozenset({"reasoning_effort"}), effort="reasoning_effort", efforts=THREE, on={})
GPT_OSS = Switch(
    models="gpt-oss", native=frozenset({"reasoning_effort"}), effort="reasoning_effort", efforts=THREE,
    refuses_others=True, on={"reasoning_effort": "medium"},
)  # fmt: skip
THINKING_TYPE = Switch(on={"thinking": {"type": "enabled"}}, off={"thinking": {"type": "disabled"}})
# Chat templates know it by one of two names; what a template does not know it ignores.
TEMPLATE = Switch(
    native=frozenset({"reasoning_effort"}),
    on={"chat_template_kwargs": {"enable_thinking": True, "thinking": True}},
    off={"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
)
OPENAI_SWITCHES = (
    Switch(
        models=r"gpt-5(\.\d+)?-(chat|pro)|^o\d", native=frozenset({"reasoning_effort"}), effort="reasoning_effort",
        efforts=THREE, refuses_others=True, on={"reasoning_effort": "medium"},
    ),
    Switch(
        models=r"gpt-5\.1(?!-codex-max)", native=frozenset({"reasoning_effort"}), effort="reasoning_effort",
        efforts=("none", *THREE), refuses_others=True, on={"reasoning_effort": "medium"},
        off={"reasoning_effort": "none"},
    ),
    Switch(
        models=r"gpt-5\.[1-9]", native=frozenset({"reasoning_effort"}), effort="reasoning_effort",
        efforts=("none", *THREE, "xhigh"), on={"reasoning_effort": "medium"}, off={"reasoning_effort": "none"},
    ),
    Switch(
        models=r"gpt-5", native=frozenset({"reasoning_effort"}), effort="reasoning_effort",
        efforts=("minimal", *THREE), refuses_others=True, on={"reasoning_effort": "medium"},
    ),
    Switch(native=frozenset({"reasoning_effort"})),  # it says itself what it thinks of it
)  # fmt: skip
THINKERS = r"(^|/)(o\d|gpt-5)"  # OpenAI's models that take max_completion_tokens alone

SAMPLING = frozenset({
    "temperature", "top_p", "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs",
})  # fmt: skip
OPENAI_SPECIAL = (
    ForModels(r"(^|/)(o\d|gpt-5(-mini|-nano)?(-20\d\d|$))", drops=SAMPLING),
    ForModels(r"(^|/)o(3(?!-mini)|4)", drops=frozenset({"stop"})),
)

OPENAI = Accent(
    limit="max_completion_tokens", limit_models=THINKERS, special=OPENAI_SPECIAL, switches=OPENAI_SWITCHES,
    is_plain=True,
)  # fmt: skip
UNKNOWN = Accent(developer=False, switches=(WORD,), replay="reasoning_content")
"""Of a provider that nothing is known of but that it speaks OpenAI's format."""

ACCENTS: dict[str, Accent] = {
    "openai": OPENAI,
    "azure": OPENAI,
    "github": msgspec.structs.replace(OPENAI, drops=frozenset({"store", "metadata", "service_tier"})),
    "deepseek": Accent(
        limit="max_tokens", developer=False, many=False, shapes=frozenset({"json_object"}), replay="reasoning_content",
        drops=frozenset({"logit_bias", "seed", "service_tier", "store", "parallel_tool_calls"}),
        switches=(msgspec.structs.replace(THINKING_TYPE, effort="reasoning_effort", efforts=("high", "max")),),
        finish={"insufficient_system_resource": "length"},
    ),
    "groq": Accent(
        developer=False, many=False, names=False, replay="reasoning",
        drops=frozenset({"logit_bias", "logprobs", "top_logprobs", "store", "metadata"}),
        special=(ForModels(r"qwen|deepseek|gpt-oss", adds={"reasoning_format": "parsed"}),),
        switches=(
            GPT_OSS,
            Switch(models="qwen", on={"reasoning_effort": "default"}, off={"reasoning_effort": "none"}),
        ),
    ),
    "together": Accent(
        limit="max_tokens", developer=False, replay="reasoning", drops=frozenset({"service_tier", "store"}),
        switches=(
            GPT_OSS,
            Switch(
                native=frozenset({"reasoning", "reasoning_effort"}), on={"reasoning": {"enabled": True}},
                off={"reasoning": {"enabled": False}},
            ),
        ),
    ),
    "fireworks": Accent(
        developer=False, replay="reasoning_content",
        switches=(
            Switch(
                native=frozenset({"reasoning_effort"}), effort="reasoning_effort",
                efforts=("none", "low", "medium", "high"), on={"reasoning_effort": "medium"},
                off={"reasoning_effort": "none"},
            ),
        ),
    ),
    "xai": Accent(
        drops=frozenset({"logit_bias"}),
        special=(
            ForModels(
                r"grok-(3-mini|code|[4-9])",
                drops=frozenset({"presence_penalty", "frequency_penalty", "stop"}),
            ),
        ),
        switches=(
            Switch(
                models="grok-3-mini", effort="reasoning_effort", efforts=("low", "high"),
                on={"reasoning_effort": "low"},
            ),
            Switch(
                models=r"grok-(4\.[3-9](?!\d)|[5-9]|latest)", native=frozenset({"reasoning_effort"}),
                effort="reasoning_effort", efforts=("none", "low", "medium", "high"),
                on={"reasoning_effort": "medium"}, off={"reasoning_effort": "none"},
            ),
        ),
        replay="reasoning_content",
    ),
    "openrouter": Accent(
        replay="reasoning", result_pictures=True,
        keeps=frozenset({"reasoning", "reasoning_content", "reasoning_details", "cache_control"}),
        switches=(
            Switch(
                native=frozenset({"reasoning", "reasoning_effort"}), on={"reasoning": {"enabled": True}},
                off={"reasoning": {"enabled": False}}, effort="reasoning.effort", efforts=EVERY,
                budget="reasoning.max_tokens",
            ),
        ),
    ),
    "mistral": Accent(
        limit="max_tokens", developer=False, renames={"seed": "random_seed"}, choices={"required": "any"},
        call_id="[a-zA-Z0-9]{9}", documents="document_url", result_pictures=True, replay="parts", stream_usage=False,
        drops=frozenset({"logit_bias", "logprobs", "top_logprobs", "user", "service_tier", "store", "top_k"}),
        switches=(
            Switch(models="magistral", on={"prompt_mode": "reasoning"}),
            Switch(
                models=r"mistral-(small|medium)", on={"reasoning_effort": "high"}, off={"reasoning_effort": "none"},
            ),
        ),
        finish={"model_length": "length"},
    ),
    "perplexity": Accent(
        limit="max_tokens", developer=False, many=False, shapes=frozenset({"json_schema"}), sources="search_results",
        drops=frozenset({
            "logit_bias", "logprobs", "top_logprobs", "seed", "stop", "parallel_tool_calls", "service_tier", "store",
            "user", "metadata",
        }),
        switches=(
            Switch(
                models="deep-research|reasoning", native=frozenset({"reasoning_effort"}), effort="reasoning_effort",
                efforts=("minimal", "low", "medium", "high"), on={},
            ),
        ),
    ),
    "cerebras": Accent(
        limit="max_completion_tokens", developer=False, many=False, replay="reasoning",
        drops=frozenset({"frequency_penalty", "presence_penalty", "logit_bias", "prompt_cache_key"}),
        switches=(GPT_OSS, Switch(models="glm", on={}, off={"reasoning_effort": "none"})),
    ),
    "moonshot": Accent(
        limit="max_completion_tokens", developer=False, strict=False, many=False, replay="reasoning_content",
        drops=frozenset({"logit_bias", "logprobs", "top_logprobs", "service_tier", "store"}),
        special=(
            ForModels(
                r"kimi-k(2\.[5-9]|[3-9])",
                drops=frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty"}),
            ),
        ),
        switches=(
            Switch(models=r"kimi-k[3-9]", effort="reasoning_effort", efforts=("low", "high", "max"), on={}),
            Switch(models=r"kimi-k2\.[7-9]-code|thinking", on={}),
            msgspec.structs.replace(THINKING_TYPE, models=r"kimi-k2\.[5-9]"),
        ),
    ),
    "zhipu": Accent(
        limit="max_tokens", developer=False, many=False, strict=False, shapes=frozenset({"json_object"}),
        refuses=frozenset({"required", "function"}), replay="reasoning_content",
        drops=frozenset({
            "logit_bias", "logprobs", "top_logprobs", "seed", "frequency_penalty", "presence_penalty", "user",
            "parallel_tool_calls", "service_tier", "store",
        }),
        switches=(THINKING_TYPE,),
        finish={"sensitive": "content_filter", "model_context_window_exceeded": "length"},
    ),
    "dashscope": Accent(
        limit="max_tokens", developer=False, replay="reasoning_content", keeps=frozenset({"cache_control"}),
        refuses=frozenset({"required"}), drops=frozenset({"logit_bias", "service_tier", "store"}),
        switches=(
            Switch(
                native=frozenset(), on={"enable_thinking": True}, off={"enable_thinking": False},
                budget="thinking_budget",
            ),
        ),
    ),
    "minimax": Accent(
        limit="max_completion_tokens", developer=False, many=False, strict=False, shapes=frozenset(),
        replay="reasoning_content", keeps=frozenset({"reasoning_details"}),
        drops=frozenset({
            "logit_bias", "logprobs", "top_logprobs", "seed", "frequency_penalty", "presence_penalty",
            "parallel_tool_calls", "service_tier", "store",
        }),
        special=(ForModels("", adds={"reasoning_split": True}),),
        switches=(
            Switch(models="M3", on={"thinking": {"type": "adaptive"}}, off={"thinking": {"type": "disabled"}}),
            Switch(on={}),
        ),
    ),
    "sambanova": Accent(
        developer=False, many=False, replay="reasoning",
        drops=frozenset({
            "logit_bias", "logprobs", "top_logprobs", "seed", "frequency_penalty", "presence_penalty", "service_tier",
            "store",
        }),
        switches=(GPT_OSS, TEMPLATE),
    ),
    "nvidia": Accent(
        limit="max_tokens", developer=False, replay="reasoning_content", drops=frozenset({"service_tier", "store"}),
        switches=(GPT_OSS, TEMPLATE),
    ),
    "huggingface": Accent(developer=False, replay="reasoning", switches=(WORD,)),
    "ollama": Accent(
        limit="max_tokens", developer=False, many=False, replay="reasoning",
        drops=frozenset({"logit_bias", "user", "service_tier", "store", "parallel_tool_calls"}),
        switches=(
            Switch(
                native=frozenset({"reasoning_effort"}), effort="reasoning_effort",
                efforts=("none", "low", "medium", "high"), on={"reasoning_effort": "medium"},
                off={"reasoning_effort": "none"},
            ),
        ),
    ),
    "vllm": Accent(developer=False, replay="reasoning", switches=(GPT_OSS, TEMPLATE)),
    "llama.cpp": Accent(limit="max_tokens", developer=False, replay="reasoning_content", switches=(TEMPLATE,)),
    "lmstudio": Accent(
        limit="max_tokens", developer=False, many=False, shapes=frozenset({"json_schema"}), replay="reasoning_content",
        switches=(WORD,),
    ),
}  # fmt: skip


CONTRACT = "contract.md 3.4 (how thinking is asked for)"
SOURCES: dict[str, str] = {
    "openai": (
        "recorded exchanges; the types of OpenAI's SDK (who takes no stop); efforts by model: models.dev and OpenAI's "
        "reference; sampling: contract.md 3.4, zeroclaw's table of temperatures, community.openai.com/t/1110750"
    ),
    "azure": "one recorded exchange: it speaks as OpenAI does",
    "github": "unconfirmed: taken for OpenAI's, which its models mostly are",
    "deepseek": f"recorded exchanges; {CONTRACT}; finish reasons: DeepSeek's API reference, by what others say of it",
    "groq": "recorded exchanges; console.groq.com/docs/openai: the fields that are refused, names, n",
    "together": f"{CONTRACT}; the rest unconfirmed",
    "fireworks": "unconfirmed",
    "xai": "docs.x.ai/docs/guides/reasoning: what models that reason refuse, and who takes an effort",
    "openrouter": "recorded exchanges; contract.md 3.4 and 5, from OpenRouter's documentation of 2026-08",
    "mistral": "recorded exchanges: random_seed, `any`, ids of nine characters, thoughts in parts, usage unasked",
    "perplexity": "docs.getbifrost.ai/providers/supported-providers/perplexity: what is not taken",
    "cerebras": "recorded exchanges; inference-docs.cerebras.ai: reasoning, no developer role; the penalties: clients'",
    "moonshot": "java.agentscope.io and platform.kimi.ai: limit, strict, fixed sampling, who thinks and how",
    "zhipu": f"{CONTRACT}; model_context_window_exceeded: opencode's issue 18813; the rest unconfirmed",
    "dashscope": f"{CONTRACT}; docs.instructorphp.com: no `required`; mohdel 0.113: thinking_budget",
    "minimax": "platform.minimax.io and java.agentscope.io: reasoning_split, limit, adaptive and disabled, no strict",
    "sambanova": "what LiteLLM's module for it takes; the rest unconfirmed",
    "nvidia": f"{CONTRACT}: chat templates; the rest unconfirmed",
    "huggingface": "recorded exchanges",
    "ollama": "recorded exchanges: both shapes, reasoning; the rest unconfirmed",
    "vllm": f"{CONTRACT}: chat templates; the rest unconfirmed",
    "llama.cpp": f"{CONTRACT}: chat templates; the rest unconfirmed",
    "lmstudio": "unconfirmed",
}
"""By row, as of 2026-11. Pages are stored copies of public ones; recorded exchanges are those at ../shared/wire."""


def accent_of(provider: str) -> Accent:
    """By a provider's name in `providers.py`, or by what the configuration calls its own."""
    return ACCENTS.get(provider, UNKNOWN)
