"""Which of the ways to speak a `[providers.NAME]` table means, and what it must say for it."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence
from typing import Literal, Protocol

from waypost import providers

Kind = Literal["openai", "azure", "anthropic", "gemini", "vertex", "bedrock", "cohere"]
"""OpenAI's format, and the same behind Azure's addresses; Google's and Anthropic's, and both behind Vertex AI's; …"""

AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
REGION = re.compile(r"[a-z0-9-]{1,40}")
PROJECT = re.compile(r"[a-z0-9:.-]{1,100}")
VERSION = re.compile(r"[A-Za-z0-9.-]{1,40}")


class Secret(Protocol):
    """One of `keys`."""

    def reveal(self) -> str:
        """The key itself."""


class Settings(Protocol):
    """What is read of a provider's table."""

    @property
    def keys(self) -> Sequence[Secret]:
        """As said."""

    @property
    def format(self) -> str | None:
        """As said; None: that of a known name, else OpenAI's."""

    @property
    def base_url(self) -> str:
        """As said, or empty."""

    @property
    def region(self) -> str:
        """AWS's."""

    @property
    def project(self) -> str:
        """Google's."""

    @property
    def location(self) -> str:
        """Google's."""

    @property
    def api_version(self) -> str:
        """Azure's."""


def kind_of(name: str, settings: Settings) -> Kind:
    """How the provider is spoken to. Raises ValueError naming the key where its settings belong to two ways."""
    row = providers.BY_NAME.get(name)
    format = settings.format or (row.format if row is not None else "openai")
    if format in ("gemini", "anthropic", "vertex"):
        is_vertex = "vertex" in (name, format) or bool(settings.project or settings.location)
        return "vertex" if is_vertex else _kind(format)
    if format in ("openai", "azure"):
        host = urllib.parse.urlsplit(settings.base_url).hostname or ""
        is_azure = "azure" in (name, format) or bool(settings.api_version) or host.endswith(AZURE_HOSTS)
        return "azure" if is_azure else "openai"
    return _kind(format)


def _kind(format: str) -> Kind:
    match format:
        case "anthropic" | "gemini" | "bedrock" | "cohere":
            return format
    raise ValueError(f"format: {format!r} is none that Waypost speaks")


# By way of speaking: the settings that it must have, and those that it may.
NEEDED: dict[Kind, tuple[str, ...]] = {"vertex": ("location",), "bedrock": ("region",)}
TAKEN: dict[Kind, tuple[str, ...]] = {
    "vertex": ("project", "location"),
    "bedrock": ("region",),
    "azure": ("api_version",),
}
PATTERNS = {"region": REGION, "project": PROJECT, "location": REGION, "api_version": VERSION}
EXAMPLES = {"region": "us-east-1", "project": "my-project", "location": "europe-west4", "api_version": "2025-03-01"}


def check(name: str, settings: Settings) -> None:
    """The settings of one way of speaking, all of them, and of no other. Raises ValueError naming the key."""
    kind = kind_of(name, settings)
    for key, pattern in PATTERNS.items():
        value: str = getattr(settings, key)
        if not value and key in NEEDED.get(kind, ()):
            raise ValueError(f'{key}: missing; {kind} needs it, such as {key} = "{EXAMPLES[key]}"')
        if value and key not in TAKEN.get(kind, ()):
            raise ValueError(f"{key}: {kind} has no use for it")
        if value and not pattern.fullmatch(value):
            raise ValueError(f'{key}: {value!r} is none; write it as in {key} = "{EXAMPLES[key]}"')
    if kind == "vertex" and not settings.project and any(not is_account(key.reveal()) for key in settings.keys):
        raise ValueError('project: missing; only a service account\'s file names one, write project = "my-project"')


def is_account(key: str) -> bool:
    """Is it the text of a service account's file?"""
    return key.startswith("{")


def default_base_url(name: str, settings: Settings) -> str:
    """The address of a known way of speaking, its places filled in; empty where there is none."""
    row = providers.BY_NAME.get(name)
    if row is not None and settings.format in (None, row.format):
        template = row.base_url
    else:
        kind = kind_of(name, settings)
        known = providers.BY_NAME.get(kind) if kind not in ("openai", "azure") else None
        template = known.base_url if known is not None else ""
    if "{resource}" in template:
        return ""  # every customer of Azure's has its own
    return template.replace("{region}", settings.region).replace("{location}", settings.location)
