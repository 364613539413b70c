"""What the endpoints take and give, as structs: they check what comes in, and the OpenAPI document is made of them.

Money is in USD, times are ISO 8601 in UTC, tokens and requests are counts. Field names are those that clients of this
class of product already read: see `docs/api.md`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Text = Annotated[str, Meta(max_length=256)]
Label = Annotated[str, Meta(min_length=1, max_length=100, description="1 to 100 printable characters")]
Limit = Annotated[int, Meta(ge=0, le=1_000_000_000, description="requests")]
Usd = Annotated[float, Meta(ge=0, le=1_000_000_000, description="USD")]
Time = Annotated[str, Meta(description="ISO 8601, UTC", examples=["2026-11-22T10:31:05Z"])]
Id = Annotated[int, Meta(ge=1, le=(1 << 53) - 1)]
Patterns = Annotated[list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=100)]


class Shape(msgspec.Struct, frozen=True):
    """What goes out."""


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What comes in: a name that is not a field is refused."""


# Errors


class ErrorBody(Shape, frozen=True):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str


class Error(Shape, frozen=True):
    """Every failure, where the request's Accept names application/json; else the message as plain text."""

    error: ErrorBody


# Inference


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream says besides the answer."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """OpenAI's chat completion request: what Waypost itself reads of it. All else goes on as sent."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: list[dict[str, Any]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=(1 << 53) - 1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=0, le=(1 << 53) - 1)] | None = None
    n: Annotated[int, Meta(ge=0, le=1000)] | None = None
    models: Annotated[list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=16)] | None = None
    provider: dict[str, Any] | None = None
    session_id: Annotated[str, Meta(max_length=256)] | None = None


class ChatCompletion(Shape, frozen=True):
    """OpenAI's chat completion. `choices` and `usage` are the upstream's; `provider` and `latency_ms` are Waypost's."""

    id: str
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    provider: str
    latency_ms: int
    usage: dict[str, Any] | UnsetType | None = UNSET
    waypost: dict[str, Any] | UnsetType = UNSET


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """OpenAI's embeddings request: what Waypost itself reads of it. Tokens are for OpenAI's own models alone."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | list[Any]
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class EmbeddingList(Shape, frozen=True):
    """OpenAI's list of embeddings; `provider` is Waypost's."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    model: str
    provider: str
    usage: dict[str, Any] | UnsetType = UNSET


class ModelCard(Shape, frozen=True):
    """A model that may be called: OpenAI's fields, OpenRouter's, Routeway's and routing.run's.

    What is not known of it is null or absent. `tier` is the first plan that has it; `providers` are in the order in
    which they are tried.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    canonical_slug: str
    name: str
    description: str | None
    context_length: int | None
    architecture: dict[str, Any]
    top_provider: dict[str, Any]
    per_request_limits: None
    default_parameters: None
    endpoints: list[str]
    tier: str | None
    allowed: Annotated[bool, Meta(description="whether the caller's plan and key have it")]
    providers: list[str]
    pricing: (
        Annotated[dict[str, Any], Meta(description="USD per token, decimal strings; and Routeway's objects")]
        | UnsetType
    ) = UNSET
    supported_parameters: list[str] | UnsetType = UNSET
    reasoning: dict[str, Any] | UnsetType = UNSET
    capabilities: dict[str, bool] | UnsetType = UNSET


class ModelList(Shape, frozen=True):
    """The models of the caller's plan."""

    object: Literal["list"]
    data: list[ModelCard]


class ModelPrice(Shape, frozen=True):
    """What a model costs, USD per million tokens; null where it is not known, absent what is not told apart."""

    model: str
    display_name: str
    input_per_million: float | None
    output_per_million: float | None
    cache_read_per_million: float | UnsetType = UNSET
    cache_write_per_million: float | UnsetType = UNSET
    cache_write_1h_per_million: float | UnsetType = UNSET
    request: Annotated[float, Meta(description="USD for each request")] | UnsetType = UNSET


class PriceList(Shape, frozen=True):
    """A row for each model of the caller's plan."""

    models: list[ModelPrice]


# The caller's own view


class RequestCounts(Shape, frozen=True):
    """What the account has used of its limits on requests; a limit of 0 means that there is none."""

    requests_used_today: int
    requests_limit_today: int
    requests_remaining: int
    requests_used_this_hour: int
    requests_limit_this_hour: int
    requests_remaining_this_hour: int
    requests_used_this_minute: int
    requests_limit_per_minute: int
    requests_remaining_this_minute: int
    plan_tier: str


class HourlyCount(Shape, frozen=True):
    """The same of this hour."""

    limit: int
    used: int
    remaining: int
    plan_tier: str


class KilledStreams(Shape, frozen=True):
    """How many of the account's streams have been ended."""

    killed_streams: int


class KeyUse(Shape, frozen=True):
    """A key, as it sees itself. Days, weeks (from Monday) and months of `usage_*` are those of UTC."""

    label: str
    limit: float | None
    limit_reset: Literal["daily", "monthly"] | None
    limit_remaining: float | None
    usage: float
    usage_daily: float
    usage_weekly: float
    usage_monthly: float
    is_free_tier: bool  # nothing has been paid in for the account
    plan_tier: str
    expires_at: Time | None
    # Callers bring no keys of providers here, so none of it is ever theirs.
    include_byok_in_limit: bool = False
    byok_usage: float = 0.0
    byok_usage_daily: float = 0.0
    byok_usage_weekly: float = 0.0
    byok_usage_monthly: float = 0.0


class KeyUseAnswer(Shape, frozen=True):
    """`GET /v1/key`."""

    data: KeyUse


class ChargedItem(Shape, frozen=True):
    """One line of the formula: `count` times `rate` is `amount`, exactly.

    `counter` is one of `usage`, with a rate in USD per million tokens, or "request" with one in USD, or "rounding" with
    neither count nor rate. Amounts are in USD, as decimal strings.
    """

    counter: str
    count: int
    rate: str
    amount: str


class PriceTerms(Shape, frozen=True):
    """The price that was used, and the terms it had then."""

    version: str
    terms: Any


class NormalUsage(Shape, frozen=True):
    """Tokens, each counted once."""

    fresh: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    audio_input: int
    image_input: int
    output: int
    reasoning: int
    audio_output: int
    image_output: int


class FailedAttempt(Shape, frozen=True):
    """An attempt at an upstream that failed; `status` is the upstream's, 0 if it sent none."""

    number: int
    created_at: Time
    provider: str
    model: str
    error_code: str
    status: int
    latency: int


class Receipt(Shape, frozen=True):
    """Everything that the books have of one request. Milliseconds; null where the request is still open."""

    id: str
    model: str
    created_at: Time
    streamed: bool
    cancelled: bool  # the caller left, or ended it
    source_id: str | None  # the request whose answer was given again: nobody was asked, and it cost nothing
    status: int | None
    error_code: str | None
    provider_name: str | None
    upstream_model: str | None
    latency: int | None
    first_token: int | None
    counted_requests: int | None
    estimated: bool | None
    tokens_prompt: int | None
    tokens_completion: int | None
    usage: NormalUsage | None
    raw_usage: Any
    price: PriceTerms | None
    formula: list[ChargedItem] | None  # its amounts add up to `total_cost`
    total_cost: float | None
    cache_savings: float | None  # USD that the upstream's prompt cache saved: below zero where it was only written
    attempts: int | None
    failed_attempts: list[FailedAttempt]


class ReceiptAnswer(Shape, frozen=True):
    """`GET /v1/generation`."""

    data: Receipt


class ReceiptQuery(Given, frozen=True):
    """Which request: the `id` of its answer, or its `X-Request-Id`."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]


# The account, by a management key


class Balance(Shape, frozen=True):
    """What is left of what has been paid in; null for an account that is not prepaid."""

    balance: float | None


class Page(Given, frozen=True):
    """Which part of a list."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Activity(Shape, frozen=True):
    """One request; `cost` is null while it is open, `source_id` unless another request's answer was given again."""

    id: str
    model: str
    cost: float | None
    created_at: Time
    source_id: str | None


class ActivityPage(Shape, frozen=True):
    """The latest requests first."""

    data: list[Activity]
    limit: int
    offset: int


class AnalyticsQuery(Given, frozen=True):
    """How many days of UTC, today being the last, and how many rows at most, the latest days first."""

    days: Annotated[int, Meta(ge=1, le=366)] = 30
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class Totals(Shape, frozen=True):
    """Sums. `cache_hit_rate` is the part of the prompts' tokens that came from a cache, 0 to 1.

    `repeated_requests` were answered with another request's answer: they have no tokens and no cost.
    `saved` is what the caches of providers saved: the cost with every prompt fresh, less what it was; below zero where
    more was paid for writing into them.
    """

    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost: float
    saved: float
    repeated_requests: int
    cache_hit_rate: float


class DayModel(Totals, frozen=True):
    """The sums of one model on one day."""

    day: str
    model: str


class ModelTotals(Totals, frozen=True):
    """The sums of one model on all the days."""

    model: str


class Analytics(Shape, frozen=True):
    """`data` by day and model, `models` by model alone; `totals` of all the days, whether or not all rows fit."""

    start: str
    end: str
    data: list[DayModel]
    models: list[ModelTotals]
    totals: Totals


class NewKey(Given, frozen=True):
    """A key to create. What narrows nothing is left out or null; a key never grants more than its account."""

    label: Label = "default"
    daily_limit: Limit | None = None
    minute_limit: Limit | None = None
    allowed_models: Patterns | None = None
    balance: Usd | None = None
    spend_limit: Usd | None = None
    limit_reset: Literal["daily", "monthly"] | None = None
    expires_at: Time | None = None


class KeyChanges(Given, frozen=True):
    """What to change of a key: what is left out stays, null takes a limit away."""

    label: Label | UnsetType = UNSET
    daily_limit: Limit | UnsetType | None = UNSET
    minute_limit: Limit | UnsetType | None = UNSET
    allowed_models: Patterns | UnsetType | None = UNSET
    balance: Usd | UnsetType | None = UNSET
    spend_limit: Usd | UnsetType | None = UNSET
    limit_reset: Literal["daily", "monthly"] | UnsetType | None = UNSET
    expires_at: Time | UnsetType | None = UNSET


class AccountKey(Shape, frozen=True):
    """A key of the account. `key` is abridged, but for the one answer that creates it."""

    api_key_id: int
    key: str
    label: str
    kind: Literal["inference", "management"]
    daily_limit: int | None
    minute_limit: int | None
    allowed_models: list[str] | None
    balance: float | None
    spend_limit: float | None
    limit_reset: Literal["daily", "monthly"] | None
    expires_at: Time | None
    created_at: Time


class AccountKeys(Shape, frozen=True):
    """The account's keys that are not revoked."""

    data: list[AccountKey]


class Message(Shape, frozen=True):
    """That it is done."""

    message: str


class UserKey(Shape, frozen=True):
    """A key as routing.run's pages list it. `last_used_at` is a day."""

    id: int
    key_prefix: str
    name: str
    plan_tier: str
    created_at: Time
    last_used_at: str | None


class UserKeys(Shape, frozen=True):
    """`GET /v1/user/key`."""

    data: list[UserKey]


class NewUserKey(Given, frozen=True):
    """`POST /v1/user/key`."""

    name: Label


class CreatedUserKey(UserKey, frozen=True):
    """The only answer with the key itself."""

    key: str
