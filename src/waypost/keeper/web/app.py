"""The ASGI application: the keeper's rows of the table of endpoints, each with its handler."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from waypost.api.endpoints import ENDPOINTS, Endpoint
from waypost.errors import Refusal
from waypost.keeper.web import account, presets, user
from waypost.keeper.web.asking import Asked, parse_body, parse_caller, parse_id, parse_query
from waypost.keeper.web.bursts import Bursts
from waypost.keeper.web.sources import Sources

logger = logging.getLogger("waypost.keeper")

Handler = Callable[[Sources, Asked], Awaitable[Any]]


async def get_metrics(sources: Sources, _asked: Asked) -> bytes:
    """Prometheus' text format."""
    return sources.render_metrics()


HANDLERS: dict[str, Handler] = {
    "get_metrics": get_metrics,
    "get_request_counts": user.get_request_counts,
    "get_hourly_count": user.get_hourly_count,
    "kill_streams": user.kill_streams,
    "get_key": user.get_key,
    "get_generation": user.get_generation,
    "list_user_keys": user.list_user_keys,
    "create_user_key": user.create_user_key,
    "revoke_user_key": user.revoke_user_key,
    "get_balance": account.get_balance,
    "get_activity": account.get_activity,
    "get_analytics": account.get_analytics,
    "list_keys": account.list_keys,
    "create_key": account.create_key,
    "read_key": account.read_key,
    "update_key": account.update_key,
    "delete_key": account.delete_key,
    "list_presets": presets.list_presets,
    "create_preset": presets.create_preset,
    "read_preset": presets.read_preset,
    "update_preset": presets.update_preset,
    "delete_preset": presets.delete_preset,
    "list_preset_versions": presets.list_preset_versions,
    "save_preset": presets.save_preset,
}


def create_app(sources: Sources) -> Starlette:
    """Every kept endpoint."""
    bursts = Bursts(sources.monotonic)
    return Starlette(
        routes=[
            Route(
                endpoint.path, answering(endpoint, HANDLERS[endpoint.name], sources, bursts), methods=[endpoint.method]
            )
            for endpoint in ENDPOINTS
            if endpoint.kept
        ]
    )


def answering(
    endpoint: Endpoint, handler: Handler, sources: Sources, bursts: Bursts
) -> Callable[[Request], Awaitable[Response]]:
    """One row: check, catch up, answer; whatever happens, in the shapes that the worker reads."""

    async def answer(request: Request) -> Response:
        try:
            caller = parse_caller(endpoint, request.headers.get("x-waypost-caller"))
            bursts.check(endpoint, caller.account_id)
            raw = await request.body()
            asked = Asked(
                caller,
                parse_query(endpoint.query, request.url.query),
                parse_body(endpoint.body, raw),
                parse_id(request.path_params.get("id", "")),
                request.path_params.get("preset", ""),
                raw,
            )
            if not await sources.catch_up() and endpoint.permission != "metrics":  # they say themselves how far behind
                raise Refusal("UNAVAILABLE", "The books are behind and would answer wrongly; try again.", retry_after=1)
            result = await handler(sources, asked)
        except Refusal as refusal:
            return render_refusal(refusal)
        except (SQLAlchemyError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            logger.warning("%s cannot be answered: %s", endpoint.path, reason or type(error).__name__)
            return render_refusal(Refusal("UNAVAILABLE", "The books cannot be asked; try again.", retry_after=1))
        except Exception:
            logger.exception("%s failed", request.headers.get("x-waypost-request", endpoint.path))
            return render_refusal(Refusal("INTERNAL_ERROR", "Waypost failed; its log has this id."))
        body = result if isinstance(result, bytes) else msgspec.json.encode(result)
        return Response(body, media_type=endpoint.media)

    return answer


def render_refusal(refusal: Refusal) -> Response:
    """The envelope; the worker words it as its own errors are worded."""
    headers = {"x-error-code": refusal.failure.code}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(refusal.retry_after)
    return Response(refusal.envelope(), refusal.status, headers, "application/json")
