"""What a caller may say about routing: the body's `provider` and `models`, and suffixes of a model's name.

The names and meanings are OpenRouter's (its guides "Provider selection" and "Model fallbacks"). What is not understood
is refused, never skipped: a caller who asks that nobody keeps its data must not be answered by someone who does.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Literal

import msgspec

from waypost.errors import Refusal

Sort = Literal["price", "throughput", "latency"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Names = Annotated[list[Name], msgspec.Meta(max_length=64)]
Limit = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Money = (
    Annotated[float, msgspec.Meta(ge=0, le=1e9)] | Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
)
MODELS = 16  # fallbacks that a request may name
LARGEST = 64 * 1024  # bytes of `provider` or `models`: a list is decoded before it is known to be too long
NANO = 10**9
PERCENTILES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99}


class Percentiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A threshold for each percentile of the last five minutes."""

    p50: Limit | None = None
    p75: Limit | None = None
    p90: Limit | None = None
    p99: Limit | None = None


class MaxPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens; `request` is USD for each request."""

    prompt: Money | None = None
    completion: Money | None = None
    request: Money | None = None


class SortBy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`sort` as an object. `partition: "none"` sorts the targets of all models together."""

    by: Sort
    partition: Literal["model", "none"] | None = None


class Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`provider` as it is written; null counts as absent."""

    order: Names | None = None
    only: Names | None = None
    ignore: Names | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    sort: Sort | SortBy | None = None
    max_price: MaxPrice | None = None
    preferred_max_latency: Limit | Percentiles | None = None
    preferred_min_throughput: Limit | Percentiles | None = None


TAKES: dict[str, str] = {
    "provider": "an object",
    "order": "a list of provider names, 64 at most",
    "only": "a list of provider names, 64 at most",
    "ignore": "a list of provider names, 64 at most",
    "allow_fallbacks": "true or false",
    "require_parameters": "true or false",
    "data_collection": "allow or deny",
    "sort": "price, throughput, latency, or an object of by and partition",
    "max_price": "an object of prompt, completion and request, each in US dollars with nine decimals at most",
    "preferred_max_latency": "seconds > 0, or an object of p50, p75, p90 and p99",
    "preferred_min_throughput": "tokens a second > 0, or an object of p50, p75, p90 and p99",
    "models": f"a list of model names, {MODELS} at most",
}
"""What each field must be, for callers who wrote something else."""


class Preferences(msgspec.Struct, frozen=True):
    """What the planner obeys. Thresholds are pairs of a percentile's share and its value; prices are nano-dollars.

    `max_price`: (prompt, completion) per million tokens and a request; None where there is no limit.
    """

    order: tuple[str, ...] = ()
    only: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    allow_fallbacks: bool = True
    require_parameters: bool = False
    deny_data_collection: bool = False
    sort: Sort | None = None
    across_models: bool = False
    max_price: tuple[int | None, int | None, int | None] = (None, None, None)
    max_latency: tuple[tuple[float, float], ...] = ()
    min_throughput: tuple[tuple[float, float], ...] = ()
    free: bool = False


NONE = Preferences()

decode_written = msgspec.json.Decoder(Written).decode
decode_names = msgspec.json.Decoder(Annotated[list[Name], msgspec.Meta(max_length=MODELS)]).decode


def parse_provider(raw: bytes) -> Preferences:
    """The body's `provider`, JSON → Preferences. Raises Refusal INVALID_REQUEST; `param` names the field."""
    check_size(raw, "provider")
    try:
        written = decode_written(raw) if raw.strip() != b"null" else Written()
    except msgspec.ValidationError as error:
        raise invalid("provider", error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("INVALID_REQUEST", f"provider: {error}.", param="provider") from None
    sort = written.sort.by if isinstance(written.sort, SortBy) else written.sort
    price = written.max_price or MaxPrice()
    return Preferences(
        order=tuple(dict.fromkeys(map(str.lower, written.order or ()))),
        only=frozenset(map(str.lower, written.only or ())),
        ignore=frozenset(map(str.lower, written.ignore or ())),
        allow_fallbacks=written.allow_fallbacks is not False,
        require_parameters=written.require_parameters is True,
        deny_data_collection=written.data_collection == "deny",
        sort=sort,
        across_models=isinstance(written.sort, SortBy) and written.sort.partition == "none",
        max_price=(nano(price.prompt), nano(price.completion), nano(price.request)),
        max_latency=thresholds(written.preferred_max_latency),
        min_throughput=thresholds(written.preferred_min_throughput),
    )


def parse_models(raw: bytes) -> tuple[str, ...]:
    """The body's `models`, JSON → the names in order, each once. Raises Refusal INVALID_REQUEST."""
    check_size(raw, "models")
    try:
        return tuple(dict.fromkeys(decode_names(raw))) if raw.strip() != b"null" else ()
    except msgspec.ValidationError as error:
        raise invalid("models", error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("INVALID_REQUEST", f"models: {error}.", param="models") from None


def check_size(raw: bytes, field: str) -> None:
    """Raises Refusal INVALID_REQUEST."""
    if len(raw) > LARGEST:
        raise Refusal("INVALID_REQUEST", f"{field}: larger than {LARGEST} bytes.", param=field)


def invalid(field: str, error: msgspec.ValidationError) -> Refusal:
    """A refusal that names the innermost field, `provider.max_price.prompt` or `models[2]`, and what it takes."""
    message, _, path = str(error).partition(" - at `$")
    place = field + path.removesuffix("`")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL)
    param = f"{place}.{unknown[1][:64]}" if unknown is not None else place
    if unknown is not None and place == "provider":
        said = f"there is no such preference here; known are {', '.join(Written.__struct_fields__)}"
    else:
        outermost = re.findall("[a-z_]+", place)[:2][-1]
        said = f"{'' if param.endswith(outermost) else f'{outermost} '}must be {TAKES[outermost]}"
    return Refusal("INVALID_REQUEST", f"{param}: {said}.", param=param)


def nano(money: float | str | None) -> int | None:
    """USD → nano-dollars, exactly as written."""
    if money is None:
        return None
    return int((Decimal(str(money)) * NANO).to_integral_value(ROUND_HALF_UP))


def thresholds(written: float | Percentiles | None) -> tuple[tuple[float, float], ...]:
    """A number stands for the median."""
    if written is None:
        return ()
    if not isinstance(written, Percentiles):
        return ((0.5, float(written)),)
    pairs = ((share, getattr(written, name)) for name, share in PERCENTILES.items())
    return tuple((share, float(value)) for share, value in pairs if value is not None)


# Suffixes of a model's name

SUFFIXES: dict[str, dict[str, object]] = {
    "nitro": {"sort": "throughput"},
    "floor": {"sort": "price"},
    "free": {"free": True},
    "thinking": {},
}
"""What a suffix adds to the preferences. `thinking` may have a level behind it, and is for the model: `effort_of`."""

LEVELS: dict[str, str] = {"": "medium", "low": "low", "medium": "medium", "high": "high"}
"""Routeway's levels of `:thinking`, and the `reasoning_effort` that each is; without one it is OpenAI's default."""


def readings(model: str) -> list[tuple[str, tuple[str, ...]]]:
    """What a name may mean: itself, or a shorter one with suffixes, from right to left. The first that exists counts.

    Ids may have colons of their own, so a literal one goes first.
    """
    found: list[tuple[str, tuple[str, ...]]] = [(model, ())]
    while (shorter := without_suffix(found[-1][0])) is not None:
        name, suffix = shorter
        found.append((name, (*found[-1][1], suffix)))
    return found


def without_suffix(model: str) -> tuple[str, str] | None:
    """A name and the suffix at its end, `thinking` together with whatever level it has; None where there is none."""
    name, _, suffix = model.rpartition(":")
    if suffix in SUFFIXES:
        return (name, suffix) if name else None
    stem = name.removesuffix(":thinking")
    return (stem, f"thinking:{suffix}") if stem and stem != name else None


def with_suffixes(preferences: Preferences, suffixes: tuple[str, ...]) -> Preferences:
    """What the suffixes add; what `provider` says itself stands. Of two that differ the rightmost wins."""
    for suffix in suffixes:
        meant = SUFFIXES.get(suffix, {})
        added = {name: value for name, value in meant.items() if not getattr(preferences, name)}
        preferences = msgspec.structs.replace(preferences, **added) if added else preferences
    return preferences


def effort_of(suffixes: tuple[str, ...]) -> str:
    """The `reasoning_effort` that `:thinking` asks for, "" where it is not there; of several the rightmost counts.

    Raises Refusal INVALID_REQUEST for a level that is none.
    """
    efforts: list[str] = []
    for suffix in suffixes:
        name, _, level = suffix.partition(":")
        if name != "thinking":
            continue
        if level not in LEVELS or suffix == "thinking:":
            known = ", ".join(filter(None, LEVELS))
            message = (
                f"model: {f':{suffix}'[:80]!r}: there is no such level; write :thinking, or one of {known} behind it."
            )
            raise Refusal("INVALID_REQUEST", message, param="model")
        efforts.append(LEVELS[level])
    return efforts[0] if efforts else ""
