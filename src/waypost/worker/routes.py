"""Every route a worker answers, in one table: method, path, who may call it, and what answers."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from waypost.errors import Refusal
from waypost.http.server import Exchange
from waypost.messages import Identity
from waypost.worker.answers import JSON, TEXT, cors_lines
from waypost.worker.serve import chat_completions

if TYPE_CHECKING:
    from waypost.worker.app import Worker

Handler = Callable[["Worker", Exchange], Coroutine[Any, None, None]]
Answerer = Callable[["Worker", Exchange, Identity], Coroutine[Any, None, None]]


class Route(msgspec.Struct, frozen=True):
    """`path` ends in `/*` where the rest names an object. What `permission` asks for is checked in the handler.

    `public`: anyone; `key`: any good key; `inference`: a key that may infer, checked inside of the walk, where the
    order of refusals is part of the contract.
    """

    method: Literal["GET", "POST"]
    path: str
    permission: Literal["public", "key", "inference"]
    handler: Handler


def public(method: Literal["GET", "POST"], path: str, answerer: Callable[[Worker, Exchange], None]) -> Route:
    """A route for anyone."""

    async def handler(worker: Worker, exchange: Exchange) -> None:
        answerer(worker, exchange)

    return Route(method, path, "public", handler)


def keyed(method: Literal["GET", "POST"], path: str, answerer: Answerer) -> Route:
    """A route for any good key."""

    async def handler(worker: Worker, exchange: Exchange) -> None:
        try:
            identity = worker.identities.known(exchange.head) or await worker.identities.identify(exchange.head)
            await answerer(worker, exchange, identity)
        except Refusal as refusal:
            worker.refuse(exchange, refusal)
        except asyncio.CancelledError:
            exchange.cut()  # the caller hung up while its key or its model was being looked up

    return Route(method, path, "key", handler)


def healthz(worker: Worker, exchange: Exchange) -> None:
    """Alive: this process takes requests."""
    exchange.respond(200, TEXT, b"ok\n")


def readyz(worker: Worker, exchange: Exchange) -> None:
    """May take traffic; says why not."""
    why_not = worker.why_not_ready()
    exchange.respond(503 if why_not else 200, TEXT, (why_not or "ready").encode() + b"\n")


async def list_models(worker: Worker, exchange: Exchange, identity: Identity) -> None:
    """`GET /v1/models`: what the caller's plan allows, as OpenAI lists it."""
    data = [card for name, card in worker.catalogue.cards.items() if worker.snapshot.allows(identity.plan, name)]
    answer(worker, exchange, {"object": "list", "data": data})


async def show_model(worker: Worker, exchange: Exchange, identity: Identity) -> None:
    """`GET /v1/models/{id}`; an id may have slashes, plain or as %2F."""
    asked = urllib.parse.unquote(exchange.path.decode("latin-1").removeprefix("/v1/models/"), errors="replace")
    name = asked if asked in worker.catalogue.cards else asked.rstrip("/")
    card = worker.catalogue.cards.get(name) or await worker.catalogue.find(worker.snapshot, name)
    if card is None or not worker.snapshot.allows(identity.plan, name):
        raise Refusal("NOT_FOUND", f"The model {asked[:256]!r} does not exist here, or your plan does not include it.")
    answer(worker, exchange, card)


def answer(worker: Worker, exchange: Exchange, value: object) -> None:
    """A JSON answer."""
    lines = b"x-request-id: %b\r\n" % worker.mint()
    exchange.respond(200, JSON + lines + cors_lines(worker.origins, exchange), msgspec.json.encode(value))


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", "inference", chat_completions),
    keyed("GET", "/v1/models", list_models),
    keyed("GET", "/v1/models/*", show_model),
    public("GET", "/healthz", healthz),
    public("GET", "/readyz", readyz),
)

EXACT: dict[tuple[str, bytes], Handler] = {(route.method, route.path.encode()): route.handler for route in ROUTES}


def find_handler(method: str, path: bytes) -> Handler:
    """The handler of a route; HEAD is GET without its body, a slash at the end is forgiven.

    Raises Refusal NOT_FOUND or METHOD_NOT_ALLOWED.
    """
    handler = EXACT.get((method, path))
    if handler is not None:
        return handler
    wanted = "GET" if method == "HEAD" else method
    trimmed = path.rstrip(b"/") or b"/"
    matching = [route for route in ROUTES if matches(route.path.encode(), trimmed)]
    for route in matching:
        if route.method == wanted:
            return route.handler
    if matching:
        raise Refusal("METHOD_NOT_ALLOWED", f"{method} is not for this endpoint; it takes {allowed(trimmed)}.")
    raise Refusal("NOT_FOUND", f"There is no {method} {path[:200].decode('latin-1')!r} here.")


def matches(pattern: bytes, path: bytes) -> bool:
    """Exact, or a `/*` with something behind it."""
    if pattern.endswith(b"/*"):
        return path.startswith(pattern[:-1]) and len(path) >= len(pattern)
    return path == pattern


def allowed(path: bytes) -> str:
    """The methods of a path, for Allow and preflight answers; empty where there is no such path."""
    methods = [route.method for route in ROUTES if matches(route.path.encode(), path.rstrip(b"/") or b"/")]
    return ", ".join(dict.fromkeys([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])) if methods else ""


def preflight(worker: Worker, exchange: Exchange) -> None:
    """OPTIONS: what a path takes, and what a browser may do where CORS is on. Raises Refusal NOT_FOUND."""
    methods = allowed(exchange.path)
    if not methods:
        raise Refusal("NOT_FOUND", f"There is no {exchange.path[:200].decode('latin-1')!r} here.")
    lines = b"allow: %b\r\n" % methods.encode()
    cors = cors_lines(worker.origins, exchange)
    if cors:
        asked = exchange.head.get_all(b"access-control-request-headers").strip() or b"authorization, content-type"
        lines += cors + b"access-control-allow-methods: %b\r\naccess-control-allow-headers: %b\r\n" % (
            methods.encode(),
            asked,
        )
        lines += b"access-control-max-age: 600\r\n"
    exchange.respond(200, lines, b"")
