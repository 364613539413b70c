"""The OpenAPI document: it is the router's, the keeper's and the server's own truth."""

from __future__ import annotations

import asyncio
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from jsonschema_rs import meta
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from tests.harness import Waypost, provider, serving, settings_of
from tests.sim.running import Running
from waypost.api import preset_shapes, routing_shapes, shapes
from waypost.api.endpoints import BY_NAME, ENDPOINTS, markdown
from waypost.api.openapi import document, render_document
from waypost.errors import TABLE
from waypost.formats.openai_chat import parse_request
from waypost.keeper.direct import administer
from waypost.keeper.metrics import Gauges, Metrics
from waypost.keeper.web.app import HANDLERS
from waypost.messages import CreatedKey, CreateKey
from waypost.worker.routes import ROUTES

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "api.md"
CONFIG = '[server]\nmetrics = "public"\n[plans.all]\n'
EXAMPLES = 40  # of each endpoint
ACCOUNTS = 12  # that take turns, so that bursts do not stand in the way


def test_the_document_has_every_route_and_nothing_else():
    described = {(method.upper(), path) for path, methods in render_document()["paths"].items() for method in methods}
    routed = {(route.endpoint.method, route.endpoint.path) for route in ROUTES}
    assert described == routed and len(ROUTES) == len(routed)


def test_the_keeper_answers_what_workers_pass_on():
    assert set(HANDLERS) == {endpoint.name for endpoint in ENDPOINTS if endpoint.kept}
    assert len(BY_NAME) == len(ENDPOINTS)


def test_what_the_keeper_answers_about_somebody_is_limited_and_guarded():
    for endpoint in ENDPOINTS:
        if endpoint.kept and endpoint.permission != "metrics":
            assert endpoint.burst is not None and endpoint.permission != "public", endpoint.name


def test_the_page_has_the_table():
    assert markdown() in PAGE.read_text(), "python -m waypost.api.endpoints prints it"


def test_the_page_names_every_metric():
    page = Metrics(Gauges).render().decode()
    names = {f"`{line.split()[2]}`" for line in page.splitlines() if line.startswith("# TYPE")}
    assert names and not [name for name in names if name not in PAGE.read_text()]


def test_every_error_is_described():
    header = render_document()["components"]["headers"]["X-Error-Code"]
    assert header["schema"]["enum"] == [row.code for row in TABLE]


def test_every_schema_is_one():
    for name, schema in render_document()["components"]["schemas"].items():
        meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        assert name in vars(shapes) or name in vars(routing_shapes) or name in vars(preset_shapes), name


def test_fields_of_chat_requests_that_are_described_are_those_that_are_read():
    for field in ("stream", "n", "max_tokens", "max_completion_tokens", "stream_options"):
        assert field in shapes.ChatRequest.__struct_fields__
        body = {"model": "m", "messages": [], field: None}
        parse_request(json.dumps(body).encode())


# Against the real server


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[tuple[Waypost, dict[str, Iterator[str]]]]:
    """A server, and an endless supply of keys of each kind, from accounts that take turns."""
    with serving(provider("sim", simulator.base) + CONFIG) as waypost:

        async def keys(kind: Any) -> list[str]:
            made = []
            for number in range(ACCOUNTS):
                message = CreateKey(f"account {number}", "all", kind=kind)
                created = await administer(waypost.folder / "data", settings_of(CONFIG), message)
                assert isinstance(created, CreatedKey), created
                made.append(created.key)
            return made

        kinds = ("inference", "management")
        yield waypost, {kind: itertools.cycle(asyncio.run(keys(kind))) for kind in kinds}


def test_it_is_served_to_everyone(server):
    waypost, _ = server
    with waypost.connect() as client:
        client.send(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = client.answer()
    assert (answer.status, answer.body) == (200, document())


CREDENTIALS = ("authorization", "x-api-key")  # ours, not invented ones
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.unsupported_method,
]


@pytest.mark.parametrize("name", BY_NAME)
def test_answers_are_as_described(server, name: str):
    waypost, keys = server
    endpoint = BY_NAME[name]
    schema = schemathesis.openapi.from_dict(json.loads(document()))
    operation = schema[endpoint.path][endpoint.method]
    kind = "management" if endpoint.permission.startswith("management") else "inference"
    statuses: set[int] = set()
    turns = itertools.count()

    modes = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]

    @hypothesis.given(case=hypothesis.strategies.one_of(modes))
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def ask(case: Any) -> None:
        case.headers = {key: value for key, value in (case.headers or {}).items() if key.lower() not in CREDENTIALS}
        is_good = case.meta.generation.mode == schemathesis.GenerationMode.POSITIVE
        if name in ("create_chat_completion", "create_embeddings", "preflight") and is_good and next(turns) % 2:
            case.body["model"] = "sim/demo"  # which no example would hit upon
        headers = {"authorization": f"Bearer {next(keys[kind])}", "accept": "application/json"}
        response = case.call(base_url=waypost.base.removesuffix("/v1"), headers=headers)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS, headers=headers)

    ask()
    expected = {"get_model", "get_generation", "read_key", "update_key", "delete_key", "revoke_user_key"}
    expected |= {"read_preset", "update_preset", "delete_preset", "list_preset_versions"}
    assert statuses & {200} or name in expected, statuses
