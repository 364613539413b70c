"""What the endpoints of presets take and give, as structs: the part of `shapes` that tells of presets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from waypost.api.shapes import Given, Shape, Time
from waypost.preset_messages import MODEL, NAME, PARAMS, SYSTEM_PROMPT, TOOLS, TTL, VERSIONS

Slug = Annotated[
    str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$", description="unique among the account's presets; not a UUID")
]
Name = Annotated[str, Meta(min_length=1, max_length=NAME, description="1 to 100 printable characters")]
Visibility = Literal["private", "public"]
ModelName = Annotated[str, Meta(min_length=1, max_length=MODEL)]
Prompt = Annotated[str, Meta(min_length=1, max_length=SYSTEM_PROMPT)]
Params = Annotated[
    dict[str, Any], Meta(max_length=PARAMS, description="fields of a chat completion request: temperature, …")
]
Tools = Annotated[list[dict[str, Any]], Meta(max_length=TOOLS)]
Number = Annotated[int, Meta(ge=1, le=VERSIONS)]


class PresetCache(Given, frozen=True):
    """Whether answers may come from the response cache, and for how many seconds they are kept there."""

    enabled: bool = True
    ttl: Annotated[int, Meta(ge=1, le=TTL)] = 300


class NewPreset(Given, frozen=True):
    """A preset to create. `model` null: any, which each request names then."""

    slug: Slug
    name: Name | UnsetType = UNSET
    visibility: Visibility = "private"
    model: ModelName | None = None
    allow_model_override: bool = False
    system_prompt: Prompt | None = None
    params: Params | None = None
    tools: Tools | None = None
    response_format: dict[str, Any] | None = None
    provider: dict[str, Any] | None = None
    cache: PresetCache | None = None


class PresetChanges(Given, frozen=True):
    """What to change of a preset: what is left out stays, null takes a field away.

    The fields from `model` on make a new version out of the one that counts; `version` says which counts from now on.
    """

    slug: Slug | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    visibility: Visibility | UnsetType = UNSET
    version: Number | UnsetType = UNSET
    model: ModelName | UnsetType | None = UNSET
    allow_model_override: bool | UnsetType = UNSET
    system_prompt: Prompt | UnsetType | None = UNSET
    params: Params | UnsetType | None = UNSET
    tools: Tools | UnsetType | None = UNSET
    response_format: dict[str, Any] | UnsetType | None = UNSET
    provider: dict[str, Any] | UnsetType | None = UNSET
    cache: PresetCache | UnsetType | None = UNSET


class SavedRequest(msgspec.Struct, frozen=True):
    """A chat completion request to be kept as a preset: system messages, model and parameters; the rest is ignored."""

    model: ModelName | None = None
    messages: list[dict[str, Any]] | None = None
    tools: Tools | None = None
    response_format: dict[str, Any] | None = None
    provider: dict[str, Any] | None = None


class PresetQuery(Given, frozen=True):
    """Which version to show; without one that which counts."""

    version: Number | None = None


class Preset(Shape, frozen=True):
    """A preset, in `version`. What stands in it is shown to its owner alone, and in lists to nobody.

    `ignored`: fields of a saved request that were not kept.
    """

    id: str
    slug: str
    name: str
    visibility: Visibility
    is_own: bool
    version: int
    designated_version: int
    latest_version: int
    model: str | None
    allow_model_override: bool
    created_at: Time
    updated_at: Time
    system_prompt: str | UnsetType | None = UNSET
    params: dict[str, Any] | UnsetType = UNSET
    tools: list[dict[str, Any]] | UnsetType = UNSET
    response_format: dict[str, Any] | UnsetType | None = UNSET
    provider: dict[str, Any] | UnsetType | None = UNSET
    cache: PresetCache | UnsetType | None = UNSET
    ignored: list[str] | UnsetType = UNSET


class PresetList(Shape, frozen=True):
    """The account's presets by their slugs."""

    data: list[Preset]


class PresetVersionRow(Shape, frozen=True):
    """One version; `bytes` is the size of what stands in it."""

    version: int
    designated: bool
    model: str | None
    bytes: int
    created_at: Time


class PresetVersionList(Shape, frozen=True):
    """A preset's versions, the latest first."""

    id: str
    slug: str
    data: list[PresetVersionRow]
