"""How an upstream is spoken to where that is not OpenAI's format as it stands: format, model and credentials."""

from __future__ import annotations

import urllib.parse
from typing import Any

import msgspec

from waypost import __version__, capabilities, config, provider_settings
from waypost.completion import Fault
from waypost.formats import anthropic_messages, bedrock_converse, cohere, gemini, openai_compatible, vertex
from waypost.formats.accents import ACCENTS, Accent
from waypost.formats.format import Format, Model, Rendered
from waypost.formats.openai_chat import parse_error
from waypost.http.client import find_header
from waypost.http.pool import Names
from waypost.http.timers import Deadlines
from waypost.provider_settings import Kind
from waypost.worker.credentials import (
    AwsKey,
    Credential,
    CredentialsUnavailable,
    Headers,
    Key,
    Token,
    account_grant,
    metadata_grant,
    parse_account,
)

TYPE = (("content-type", "application/json"),)
FORMATS: dict[Kind, Format] = {
    "anthropic": anthropic_messages,
    "gemini": gemini,
    "bedrock": bedrock_converse,
    "cohere": cohere,
}
EVENTS = {"bedrock": "application/vnd.amazon.eventstream"}
ERROR_TYPE = b"x-amzn-errortype"

# Statuses of the 4xx that say something of us, not of the request.
NOT_CONTENT = frozenset({401, 402, 403, 404, 407, 408, 429})
# The status that a fault would have had at OpenAI's: what the gateway makes of an error goes by it.
STATUSES = {
    "context_length": 400, "content_policy": 400, "bad_request": 400, "auth": 401, "not_found": 404,
    "rate_limit": 429, "overloaded": 503, "server": 500,
}  # fmt: skip


class Complaint(msgspec.Struct, frozen=True):
    """An upstream's error as OpenAI would have given it. `retry_after`: the seconds that its body asks for."""

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after: float | None = None


class Speech:
    """What all models of one provider share: its way of speaking, its address, and a credential for each key."""

    def __init__(self, name: str, settings: config.Provider, url: str, deadlines: Deadlines, names: Names) -> None:
        """`url` is the base URL without a slash at its end. Raises config.ConfigError."""
        self.provider = name
        self.kind = provider_settings.kind_of(name, settings)
        self.api_version = settings.api_version
        self.fetches_media = settings.media == "fetch"
        self.capabilities = settings.capabilities
        parts = urllib.parse.urlsplit(url)
        self.host, self.path = parts.netloc, parts.path
        self.place = ""
        if self.kind == "vertex":
            self.place = vertex.place(project_of(name, settings), settings.location)
        self.credentials = [self._credential(key.reveal(), settings, deadlines, names) for key in settings.keys]

    def _credential(self, key: str, settings: config.Provider, deadlines: Deadlines, names: Names) -> Credential:
        match self.kind:
            case "anthropic":
                return Key("x-api-key", key, key)
            case "gemini":
                return Key("x-goog-api-key", key, key)
            case "azure":
                return Key("api-key", key, key)
            case "bedrock":
                return AwsKey(key, self.host, settings.region)
            case "vertex" if key == "metadata":
                return Token(metadata_grant(deadlines, names))
            case "vertex" if provider_settings.is_account(key):
                return Token(account_grant(read_account(self.provider, key), deadlines, names))
        return Key("authorization", f"Bearer {key}", key)

    async def render(
        self, credential: Credential, rendered: Rendered, seconds: float, accept: str = "application/json"
    ) -> bytes:
        """One whole request, within so many seconds. Raises CredentialsUnavailable."""
        path, body = self.path + rendered.path, rendered.body
        sent = TYPE + rendered.headers
        credentials = await authorized(credential, path, body, sent, seconds)
        lines = "".join([f"{name}: {value}\r\n" for name, value in sent + credentials])
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self.host}\r\n{lines}accept: {accept}\r\naccept-encoding: identity\r\n"
            f"user-agent: waypost/{__version__}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode("ascii") + body


async def authorized(credential: Credential, path: str, body: bytes, sent: Headers, seconds: float) -> Headers:
    """The credentials of one request, within so many seconds. Raises CredentialsUnavailable."""
    headers = credential.headers(path, body, sent)
    if headers is None:
        await credential.fetch(seconds)
        headers = credential.headers(path, body, sent)
        if headers is None:
            raise CredentialsUnavailable("the access token is good for too short a time")
    return headers


class Dialect:
    """How one upstream is spoken to. `format` None: OpenAI's, with an accent or limits of what its model can do."""

    def __init__(self, speech: Speech, credential: Credential, model: str, settings: config.Model | None) -> None:
        """`settings`: of the configured model in whose chain the upstream stands."""
        self.speech = speech
        self._credential = credential
        self.format = format_of(speech.kind, model)
        self.accent = accent_of(speech) if self.format is None else None
        self.model = model_of(speech, model, self.format, settings)

    async def render(self, rendered: Rendered, stream: bool, seconds: float) -> bytes:
        """One whole request, within so many seconds. Raises CredentialsUnavailable."""
        events = EVENTS.get(self.speech.kind, "text/event-stream")
        return await self.speech.render(self._credential, rendered, seconds, events if stream else "application/json")

    def read_error(self, status: int, head: bytes, body: bytes) -> Complaint:
        """A status that is not 200, with its head in lower case."""
        if self.speech.kind == "bedrock":
            fault = bedrock_converse.parse_error(status, body, find_header(head, ERROR_TYPE).decode("latin-1"))
        elif self.format is not None:
            fault = self.format.parse_error(status, body)
        elif self.accent is not None:
            fault = openai_compatible.parse_error(status, body)
        else:
            return Complaint(status, *parse_error(body))
        return Complaint(status_of(fault, status), fault.message, code_of(fault), fault.param, fault.retry_after)


def status_of(fault: Fault, status: int) -> int:
    """The upstream's own status where it says the same, else the usual one."""
    usual = STATUSES[fault.kind]
    if fault.kind in ("context_length", "content_policy", "bad_request"):
        return status if 400 <= status < 500 and status not in NOT_CONTENT else usual
    if fault.kind == "auth":
        return status if status in (401, 402, 403) else usual
    return status if fault.kind in ("overloaded", "server") and status >= 500 else usual


def code_of(fault: Fault) -> str:
    """OpenAI's code for it, where the gateway goes by that."""
    return "context_length_exceeded" if fault.kind == "context_length" else fault.code


def format_of(kind: Kind, model: str) -> Format | None:
    """The module that speaks it; None for OpenAI's, which needs none."""
    return vertex.format_of(model) if kind == "vertex" else FORMATS.get(kind)


def model_of(speech: Speech, id: str, format: Format | None, settings: config.Model | None) -> Model:
    """What is known of a model, and over it what the provider's settings say, and over that its own."""
    if speech.kind == "vertex":
        model = vertex.known_model(id, speech.place)
    elif format is not None:
        model = format.known_model(id)
    else:
        model = Model(id=id, inputs=frozenset({"text", "image", "pdf", "audio", "video"}))
        known = capabilities.known(speech.provider, id)
        model = with_fields(model, capabilities.said(known))
    fields = capabilities.said(speech.capabilities)
    if settings is not None:
        fields |= capabilities.said(settings.capabilities)
        if settings.cache_from is not None:
            fields["cache_from"] = settings.cache_from
    return with_fields(model, fields)


def with_fields(model: Model, fields: dict[str, Any]) -> Model:
    """A model of which something else is said; budgets only add to what is known."""
    if not fields:
        return model
    if "budgets" in fields:
        fields = {**fields, "budgets": {**model.budgets, **fields["budgets"]}}
    return msgspec.structs.replace(model, **fields)


def accent_of(speech: Speech) -> Accent | None:
    """The accent of OpenAI's format, where the table has one."""
    return ACCENTS.get("azure" if speech.kind == "azure" else speech.provider)


def is_plain(speech: Speech, id: str, settings: config.Model | None) -> bool:
    """OpenAI's format as it stands: neither an accent, nor something said of what the model can do."""
    own = settings.capabilities if settings is not None else None
    is_limited = own or speech.capabilities or capabilities.known(speech.provider, id)
    return speech.kind in ("openai", "azure") and not is_limited and accent_of(speech) is None


def read_account(provider: str, key: str) -> Any:
    """A service account. Raises config.ConfigError."""
    try:
        return parse_account(key)
    except ValueError as error:
        raise config.ConfigError(f"[providers.{config.quoted(provider)}] keys: {error}") from None


def check_accounts(name: str, settings: config.Provider) -> None:
    """The files of service accounts are what they should be. Raises config.ConfigError."""
    if provider_settings.kind_of(name, settings) == "vertex":
        for key in settings.keys:
            if provider_settings.is_account(key.reveal()):
                read_account(name, key.reveal())
        project_of(name, settings)


def project_of(name: str, settings: config.Provider) -> str:
    """The project, else that of the first service account. Raises config.ConfigError."""
    if settings.project:
        return settings.project
    for key in settings.keys:
        if provider_settings.is_account(key.reveal()):
            project: str = read_account(name, key.reveal()).project_id
            if project:
                return project
    raise config.ConfigError(f"[providers.{config.quoted(name)}] project: missing, and no service account names one")
