"""A caller's model → the chain that answers for it: names, suffixes, fallbacks, and what the caller asks of routing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from waypost import config
from waypost.errors import Refusal
from waypost.formats.openai_chat import GATEWAY_ONLY, ChatRequest
from waypost.formats.usage import estimate_tokens
from waypost.messages import Identity
from waypost.policy.chains import Chain, Target, expand
from waypost.policy.history import MESSAGES
from waypost.policy.preferences import NONE, effort_of, parse_models, parse_provider, readings, with_suffixes
from waypost.policy.routing import ANYTHING, Asked, eligible
from waypost.pricing import Price, configured_price
from waypost.worker.facts import FILE, can_be_asked_to_reason
from waypost.worker.needs import PARTS, find_parts
from waypost.worker.upstreams import Links, Snapshot, Upstream

if TYPE_CHECKING:
    from waypost.worker.natives import Natives
    from waypost.worker.prices import Listed, Prices


class Sources(Protocol):
    """Whom to ask about what the configuration does not say: a worker is one."""

    natives: Natives
    prices: Prices
    clock: Callable[[], float]


LinkPrices = dict[tuple[str, str], "Listed"]


class Route(msgspec.Struct, frozen=True, eq=False):
    """A name, compiled: its chain, all that may be tried for it (fallbacks too), seconds for all attempts together.

    `hedge`: seconds after which another is asked beside who is silent and not known yet; None: nobody is. `pace`:
    tokens a second that a stream must begin with; None: any. `history`: messages besides instructions that a
    conversation keeps at most, 0 where it is not cut.
    """

    chain: Chain
    upstreams: tuple[Upstream, ...]
    deadline: float
    hedge: float | None = None
    pace: float | None = None
    history: int = 0


class Resolved(msgspec.Struct, frozen=True, eq=False):
    """What a request's model means: a route, what is asked of it, and all upstreams that may be tried.

    `effort`: the reasoning that `:thinking` asks for, "" where it is not there. `free`: it is a `:free` variant.
    """

    route: Route
    asked: Asked
    upstreams: tuple[Upstream, ...]
    effort: str = ""
    free: bool = False


async def resolve(sources: Sources, snapshot: Snapshot, identity: Identity, request: ChatRequest) -> Resolved:
    """Raises Refusal INVALID_MODEL, FORBIDDEN, MODEL_NOT_ALLOWED, INVALID_REQUEST or UNAVAILABLE."""
    name, suffixes = await read_name(sources, snapshot, request.model)
    check_allowed(snapshot, identity, name)
    route = await find_route(sources, snapshot, name)
    effort, free = effort_of(suffixes), "free" in suffixes
    if not request.steers:
        preferences = with_suffixes(NONE, suffixes)
        asked = Asked(preferences, thinks=bool(effort)) if suffixes else ANYTHING
        found = Resolved(route, asked, may_be_tried([route], asked), effort, free)
        return snapshot.remember(identity, request.model, found)
    fields = request.fields
    preferences = with_suffixes(parse_provider(bytes(fields["provider"])) if "provider" in fields else NONE, suffixes)
    routes = [route]
    for other in parse_models(bytes(fields["models"])) if "models" in fields else ():
        routes.append(await find_other(sources, snapshot, identity, other))
    others = tuple(each.chain for each in routes[1:])
    asked = Asked(preferences, parameters=frozenset(fields), models=others, thinks=bool(effort))
    return Resolved(route, asked, may_be_tried(routes, asked), effort, free)


async def find_other(sources: Sources, snapshot: Snapshot, identity: Identity, other: str) -> Route:
    """One of the caller's `models`. Raises as `resolve` does, with `models` as the field at fault."""
    try:
        name, suffixes = await read_name(sources, snapshot, other)
        check_allowed(snapshot, identity, name)
    except Refusal as refusal:
        refusal.param = refusal.param and "models"
        raise
    if suffixes:
        message = f"models: {other[:256]!r}: Suffixes go to `model` alone; say what you prefer in `provider`."
        raise Refusal("INVALID_REQUEST", message, param="models")
    return await find_route(sources, snapshot, name)


def may_be_tried(routes: Sequence[Route], asked: Asked) -> tuple[Upstream, ...]:
    """The upstreams that what the caller says leaves; all of them where it leaves none, which is refused later."""
    if asked is ANYTHING:
        return routes[0].upstreams
    left = dict.fromkeys(candidate.upstream for candidate in eligible(routes[0].chain, asked))
    return tuple(left or dict.fromkeys(upstream for each in routes for upstream in each.upstreams))


# Names


async def read_name(sources: Sources, snapshot: Snapshot, model: str) -> tuple[str, tuple[str, ...]]:
    """The name that exists, and its suffixes. Raises Refusal INVALID_MODEL or UNAVAILABLE."""
    for name, suffixes in readings(model):
        if (snapshot.links(name) or await sources.natives.links(snapshot, name)) is not None:
            return name, suffixes
    raise no_such_model(model)


def no_such_model(model: str) -> Refusal:
    """Neither configured nor a native id that some provider here serves."""
    message = f"The model {model[:256]!r} does not exist here; GET /v1/models lists them."
    return Refusal("INVALID_MODEL", message, param="model")


def check_allowed(snapshot: Snapshot, identity: Identity, name: str) -> None:
    """Raises Refusal FORBIDDEN or MODEL_NOT_ALLOWED."""
    if identity.kind != "inference":
        raise Refusal("FORBIDDEN", "A management key (rkm_…) manages and never infers; use an rk_ key.")
    if not snapshot.allows(identity.plan, name):
        raise Refusal("MODEL_NOT_ALLOWED", f"The plan {identity.plan!r} does not include {name!r}.", param="model")
    if identity.models is not None and not any(config.covers(pattern, name) for pattern in identity.models):
        raise Refusal("MODEL_NOT_ALLOWED", f"This key is not for {name!r}; its models are limited.", param="model")


# Routes


async def find_route(sources: Sources, snapshot: Snapshot, name: str) -> Route:
    """The route of a name that exists. Raises Refusal UNAVAILABLE where its prices cannot be asked for."""
    route = snapshot.routes.get(name)
    if route is None:
        targets = [link for each in names_of(snapshot, name) for link in snapshot.links(each) or ()]
        prices = await sources.prices.find(snapshot, targets, sources.clock())
        route = snapshot.add_route(make_route(snapshot, name, prices))
    return route


def names_of(snapshot: Snapshot, name: str) -> list[str]:
    """A model and those of the configuration that it falls back to."""
    models = snapshot.settings.models
    return expand(name, {key: model.models for key, model in models.items()})


def make_route(snapshot: Snapshot, name: str, prices: LinkPrices) -> Route:
    """Compile a name, by what the price list says of every link."""
    settings = snapshot.settings.models.get(name)
    fallbacks = [make_chain(snapshot, other, prices) for other in names_of(snapshot, name)[1:]]
    chain = make_chain(snapshot, name, prices, fallbacks)
    candidates = [each for one in (chain, *fallbacks) for keys in one.targets for each in keys]
    upstreams = tuple(candidate.upstream for candidate in candidates)
    deadline = snapshot.settings.routing.deadline
    if settings is None:
        return Route(chain, upstreams, deadline)
    history = history_of(settings)
    return Route(chain, upstreams, settings.deadline or deadline, settings.hedge, settings.min_throughput, history)


def history_of(model: config.Model | None) -> int:
    """Messages besides instructions that its conversations keep at most; 0: they are not cut."""
    history = model.history if model is not None else "off"
    return history if isinstance(history, int) else MESSAGES if history == "fit" else 0


def make_chain(snapshot: Snapshot, name: str, prices: LinkPrices, fallbacks: Sequence[Chain] = ()) -> Chain:
    """One model's own links, and flat what follows them."""
    model = snapshot.settings.models.get(name)
    links: Links = snapshot.links(name) or []
    costs = {link: price_of(model, link, prices) for link in links}
    weights = model.weights if model is not None and model.weights else (1.0,) * len(links)
    targets = [
        make_target(snapshot, model, link, weight, costs[link], prices)
        for link, weight in dict(zip(links, weights, strict=True)).items()
    ]
    chain = Chain(
        name,
        targets,
        snapshot.health,
        strategy=model.strategy if model is not None else "ordered",
        fallbacks=fallbacks,
        larger=model is not None and model.larger,
        strict=model is not None and model.strict_tool_pinning,
    )
    for keys in chain.targets:
        for candidate in keys:
            target = candidate.target
            candidate.upstream = snapshot.upstream(candidate, model, costs[target.provider, target.model])
    return chain


def price_of(model: config.Model | None, link: tuple[str, str], prices: LinkPrices) -> Price | None:
    """What a link costs: by its own price, its model's, or the list."""
    written = model and (model.prices.get("/".join(link)) or model.price)
    return configured_price(written) if written else prices[link].price


def context_of(
    model: config.Model | None, provider: config.Provider, link: tuple[str, str], prices: LinkPrices
) -> int | None:
    """Tokens of a link's context: its model's, its provider's, or the list's."""
    return (model.context if model is not None else None) or provider.context or prices[link].context


def make_target(
    snapshot: Snapshot,
    model: config.Model | None,
    link: tuple[str, str],
    weight: float,
    price: Price | None,
    prices: LinkPrices,
) -> Target:
    """What the planner knows of a link."""
    provider = snapshot.settings.providers[link[0]]
    weights = provider.weights or (1.0,) * len(provider.keys)
    first = price.tiers[0].rates if price is not None else None
    return Target(
        *link,
        keys=tuple((str(number), weight) for number, weight in enumerate(weights, 1)),
        weight=weight,
        prices=(first.fresh, first.output, price.request) if price is not None and first is not None else None,
        context=context_of(model, provider, link, prices),
        modalities=frozenset(model.modalities) if model is not None and model.modalities else None,
        parameters=frozenset(provider.parameters) | ALWAYS if provider.parameters is not None else None,
        keeps_data=provider.data_collection == "allow",
        reasons=can_be_asked_to_reason(link[0], provider, link[1], model),
    )


ALWAYS = GATEWAY_ONLY | {"model", "messages", "stream", "stream_options"}
"""Fields that no provider has to declare: every one has the first, and the others are never sent on."""


# What a request needs


def needs(chain: Chain, asked: Asked, body: bytes, messages: bytes) -> Asked:
    """What must be known of a request where not every target takes every request."""
    is_short = not chain.tightest or len(body) <= chain.tightest  # a token has a byte at least
    if asked is ANYTHING and is_short and not chain.sees:
        return asked
    modalities = frozenset(FILE.get(PARTS[part], PARTS[part]) for part in find_parts(messages))
    if asked is ANYTHING and is_short and not modalities:
        return asked
    return msgspec.structs.replace(asked, tokens=estimate_tokens(body), modalities=modalities)
