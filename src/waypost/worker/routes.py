"""Every route a worker answers: the rows of `waypost.api.endpoints`, each with its handler, and who may call it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import urllib.parse
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from waypost.api.endpoints import ENDPOINTS, MEANINGS, Endpoint, Permission, permits
from waypost.errors import Refusal
from waypost.http.exchange import Exchange
from waypost.messages import Identity
from waypost.worker.answers import JSON, TEXT, cors_lines
from waypost.worker.catalogue import Shown, is_shown
from waypost.worker.embeddings import EMBEDDINGS
from waypost.worker.forward import forward
from waypost.worker.identity import credential, has_credential
from waypost.worker.preflight import preflight as explain
from waypost.worker.resolve import find_route
from waypost.worker.serve import CHAT, serve
from waypost.worker.status import render_status

if TYPE_CHECKING:
    from waypost.worker.app import Worker

log = logging.getLogger("waypost.serve")

Handler = Callable[["Worker", Exchange], Coroutine[Any, None, None]]
Answerer = Callable[["Worker", Exchange, Identity | None], Coroutine[Any, None, None]]

SEGMENT = re.compile(rb"[A-Za-z0-9_-]{1,64}").fullmatch
"""What may stand for a plain name in braces: nothing that another reader of the path could take for something else."""


class Route(msgspec.Struct, frozen=True):
    """A row and what answers it."""

    endpoint: Endpoint
    handler: Handler

    def matches(self, path: bytes) -> bool:
        """Is it this row's path? Compared byte by byte: `%2e`, `//` and capitals are what they are."""
        prefix, suffix = self.endpoint.prefix.encode(), self.endpoint.suffix.encode()
        parameter = self.endpoint.parameter
        if not parameter:
            return path == prefix
        if not path.startswith(prefix) or not path[len(prefix) :].endswith(suffix):
            return False
        rest = path[len(prefix) :].removesuffix(suffix)
        return rest != b"" if parameter == "model" else SEGMENT(rest) is not None


# Permission


async def authorise(worker: Worker, exchange: Exchange, permission: Permission) -> Identity | None:
    """The caller, if it may; None where nobody is asked who it is.

    Raises Refusal AUTHENTICATION_ERROR, FORBIDDEN or UNAVAILABLE.
    """
    if permission == "public":
        return None
    if permission == "metrics":
        check_metrics(worker, exchange)
        return None
    if (
        permission == "catalogue"
        and worker.snapshot.settings.server.public_models
        and not has_credential(exchange.head)
    ):
        return None
    identity = worker.identities.known(exchange.head) or await worker.identities.identify(
        exchange.head, exchange.address
    )
    if not permits(permission, identity):
        raise Refusal("FORBIDDEN", f"This endpoint is for {MEANINGS[permission]}.")
    return identity


def check_metrics(worker: Worker, exchange: Exchange) -> None:
    """Who may see the whole server's numbers is the operator's to say: no account's key is good for them."""
    setting = worker.snapshot.settings.server.metrics.reveal()
    if setting == "public":
        return
    if setting == "off":
        raise Refusal("FORBIDDEN", 'Metrics are off: set metrics = "public", or to a token, under [server].')
    if not hmac.compare_digest(credential(exchange.head), setting.encode()):
        raise Refusal("AUTHENTICATION_ERROR", "Metrics take the token of server.metrics as `Authorization: Bearer …`.")


def guarded(endpoint: Endpoint, answerer: Answerer) -> Handler:
    """A handler that answers only whom the row lets."""

    async def handler(worker: Worker, exchange: Exchange) -> None:
        try:
            identity = await authorise(worker, exchange, endpoint.permission)
            await answerer(worker, exchange, identity)
        except Refusal as refusal:
            worker.refuse(exchange, refusal)
        except asyncio.CancelledError:
            exchange.cut()  # the caller hung up while its key or its answer was being looked up
        except Exception:
            log.exception("%s %s failed", endpoint.method, endpoint.path)
            worker.refuse(exchange, Refusal("INTERNAL_ERROR", "Waypost failed; its log says how."))

    return handler


def kept(endpoint: Endpoint) -> Answerer:
    """The keeper answers."""

    async def answerer(worker: Worker, exchange: Exchange, identity: Identity | None) -> None:
        await forward(worker, exchange, endpoint, identity)

    return answerer


# Answered here


async def healthz(worker: Worker, exchange: Exchange, identity: Identity | None) -> None:
    """Alive: this process takes requests."""
    exchange.respond(200, TEXT, b"ok\n")


async def readyz(worker: Worker, exchange: Exchange, identity: Identity | None) -> None:
    """May take traffic; says why not."""
    why_not = worker.why_not_ready()
    exchange.respond(503 if why_not else 200, TEXT, (why_not or "ready").encode() + b"\n")


async def openapi(worker: Worker, exchange: Exchange, identity: Identity | None) -> None:
    """The description of all this."""
    from waypost.api.openapi import document  # only now: most workers are never asked

    exchange.respond(200, JSON + cors_lines(worker.origins, exchange), document())


async def list_models(worker: Worker, exchange: Exchange, identity: Identity | None) -> None:
    """`GET /v1/models`: what the caller's plan allows, as OpenAI lists it."""
    answer_bytes(worker, exchange, worker.catalogue.listing(shown_to(worker, identity)))


async def list_prices(worker: Worker, exchange: Exchange, identity: Identity | None) -> None:
    """`GET /v1/pricing`: what these models cost."""
    answer_bytes(worker, exchange, worker.catalogue.pricing(shown_to(worker, identity)))


def shown_to(worker: Worker, identity: Identity | None) -> Shown:
    """Whose models a caller sees: a stranger those of the public plan."""
    if identity is None:
        return worker.snapshot.settings.server.public_models, None
    return identity.plan, identity.models


async def show_model(worker: Worker, exchange: Exchange, identity: Identity | None) -> None:
    """`GET /v1/models/{id}`; an id may have slashes, plain or as %2F."""
    asked = urllib.parse.unquote(exchange.path.decode("latin-1").removeprefix("/v1/models/"), errors="replace")
    name = asked if asked in worker.catalogue.cards else asked.rstrip("/")
    card = worker.catalogue.cards.get(name) or await worker.catalogue.find(worker.snapshot, name)
    if card is None:
        raise Refusal("NOT_FOUND", f"The model {asked[:256]!r} does not exist here.")
    settings = worker.snapshot.settings
    allowed = is_shown(settings, shown_to(worker, identity), name)
    if name not in settings.models and allowed:
        answer(worker, exchange, card)
        return
    fields: dict[str, msgspec.Raw] = msgspec.json.decode(card, type=dict[str, msgspec.Raw])
    fields["allowed"] = msgspec.Raw(b"true" if allowed else b"false")
    if name in settings.models:  # by price, perhaps, and with who takes over
        route = await find_route(worker, worker.snapshot, name)
        providers = list(dict.fromkeys(upstream.provider for upstream in route.upstreams))
        fields["providers"] = msgspec.Raw(msgspec.json.encode(providers))
    answer(worker, exchange, fields)


async def show_preflight(worker: Worker, exchange: Exchange, identity: Identity | None) -> None:
    """`POST /v1/preflight`: what would become of this request."""
    assert identity is not None
    answer(worker, exchange, await explain(worker, exchange, identity))


async def show_status(worker: Worker, exchange: Exchange, identity: Identity | None) -> None:
    """`GET /v1/status`: live health."""
    answer(worker, exchange, render_status(worker.snapshot, worker.watch, worker.clock(), worker.books.wall()))


def answer(worker: Worker, exchange: Exchange, value: object) -> None:
    """A JSON answer."""
    answer_bytes(worker, exchange, msgspec.json.encode(value))


def answer_bytes(worker: Worker, exchange: Exchange, body: bytes) -> None:
    """A JSON answer that is ready."""
    lines = b"x-request-id: %b\r\n" % worker.mint()
    exchange.respond(200, JSON + lines + cors_lines(worker.origins, exchange), body)


LOCAL: dict[str, Answerer] = {
    "preflight": show_preflight,
    "get_status": show_status,
    "list_models": list_models,
    "get_model": show_model,
    "get_pricing": list_prices,
    "healthz": healthz,
    "readyz": readyz,
    "get_openapi": openapi,
}


OPERATIONS = {"create_chat_completion": CHAT, "create_embeddings": EMBEDDINGS}


def handler_of(endpoint: Endpoint) -> Handler:
    """What answers a row. The walk asks for permission itself: there the order of refusals is part of the contract."""
    if endpoint.name in OPERATIONS:
        operation = OPERATIONS[endpoint.name]
        return lambda worker, exchange: serve(worker, exchange, operation)
    return guarded(endpoint, kept(endpoint) if endpoint.kept else LOCAL[endpoint.name])


ROUTES: tuple[Route, ...] = tuple(Route(endpoint, handler_of(endpoint)) for endpoint in ENDPOINTS)

EXACT: dict[tuple[str, bytes], Handler] = {
    (route.endpoint.method, route.endpoint.path.encode()): route.handler
    for route in ROUTES
    if not route.endpoint.parameter
}


def find_handler(method: str, path: bytes) -> Handler:
    """The handler of a route; HEAD is GET without its body, a slash at the end is forgiven.

    Raises Refusal NOT_FOUND or METHOD_NOT_ALLOWED.
    """
    handler = EXACT.get((method, path))
    if handler is not None:
        return handler
    wanted = "GET" if method == "HEAD" else method
    trimmed = path.rstrip(b"/") or b"/"
    matching = [route for route in ROUTES if route.matches(trimmed)]
    for route in matching:
        if route.endpoint.method == wanted:
            return route.handler
    if matching:
        raise not_allowed(method, trimmed)
    raise Refusal("NOT_FOUND", f"There is no {method} {path[:200].decode('latin-1')!r} here.")


def not_allowed(method: str, path: bytes) -> Refusal:
    """The path is there, but not for this method; Allow says for which (RFC 9110 §15.5.6)."""
    methods = allowed(path)
    refusal = Refusal("METHOD_NOT_ALLOWED", f"{method} is not for this endpoint; it takes {methods}.")
    refusal.lines = b"allow: %b\r\n" % methods.encode()
    return refusal


def allowed(path: bytes) -> str:
    """The methods of a path, for Allow and preflight answers; empty where there is no such path."""
    methods: list[str] = [route.endpoint.method for route in ROUTES if route.matches(path.rstrip(b"/") or b"/")]
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
