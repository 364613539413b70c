"""The link's messages about presets: kept requests' parts that callers refer to by a name.

Whose they are is said by the account: an API's caller by its account's id, an operator's command by its name. A body is
the JSON of `policy.preset.Body`.
"""

from __future__ import annotations

from typing import Final, Literal

from waypost.listing import Message

SLUG: Final = 64  # characters
NAME: Final = 100  # characters
SYSTEM_PROMPT: Final = 128 * 1024  # bytes of UTF-8
PARAMS: Final = 64
TOOLS: Final = 128
BODY: Final = 256 * 1024  # bytes of a version's JSON
PRESETS: Final = 500  # of one account
VERSIONS: Final = 1000  # of one preset
TOTAL: Final = 64 * 1024 * 1024  # bytes of all versions of all presets of one account
MODEL: Final = 256  # characters
TTL: Final = 86_400  # seconds

Visibility = Literal["private", "public"]
Owner = int | str


# What workers ask, and are told


class FindPreset(Message, frozen=True):
    """The preset that `account` may use by this id or slug, in this version, 0 for the one that counts.

    Answered by `FoundPreset`, by None (unknown, or another's private one), or by `Failed`.
    """

    account: int
    name: str
    version: int = 0


class FoundPreset(Message, frozen=True):
    """A version of a preset. `version` is 0 and the body empty where there is no such version."""

    id: str
    account: int  # the owner
    slug: str
    version: int
    latest: int
    body: bytes


class ForgetPreset(Message, frozen=True):
    """Push: drop what is known of this preset, by its id and by these slugs; it was created, changed or deleted."""

    id: str
    account: int
    slugs: tuple[str, ...]


class ForgetPresets(Message, frozen=True):
    """Push: drop what is known of any preset; an account was disabled or enabled, and its public ones with it."""


# Administration


class CreatePreset(Message, frozen=True):
    """A new preset with its first version. Answered by its `PresetRecord`."""

    owner: Owner
    slug: str
    name: str
    visibility: Visibility
    body: bytes


class SavePreset(Message, frozen=True):
    """A preset from a request's body: a new one, or a new version of the one of that slug.

    What no request can say (`policy.preset.UNSAID`) stays as it was. Answered by its `PresetRecord`.
    """

    owner: Owner
    slug: str
    body: bytes


class ChangePreset(Message, frozen=True):
    """Change what is not None. Answered by its `PresetRecord`.

    `changes` is a JSON object of a body's fields, null for those to be taken away: they make a new version out of the
    one that counts. `version` says which counts from now on.
    """

    owner: Owner
    preset: str  # its id or slug
    slug: str | None = None
    name: str | None = None
    visibility: Visibility | None = None
    version: int | None = None
    changes: bytes | None = None


class DeletePreset(Message, frozen=True):
    """Delete a preset with all its versions. Answered by its `PresetRecord`."""

    owner: Owner
    preset: str


class ShowPreset(Message, frozen=True):
    """One preset, in this version, 0 for the one that counts; of another's public one what everyone may know.

    Answered by its `PresetRecord`.
    """

    owner: Owner
    preset: str
    version: int = 0


class ListPresets(Message, frozen=True):
    """An owner's presets by their slugs. Answered by `PresetRecords`, without bodies."""

    owner: Owner


class ListPresetVersions(Message, frozen=True):
    """The versions of an owner's preset, the latest first. Answered by `PresetVersions`."""

    owner: Owner
    preset: str


class PresetRecord(Message, frozen=True):
    """A preset, and a version of it. Times are seconds since 1970 UTC. `body` is empty for who is not the owner."""

    id: str
    account: str
    slug: str
    name: str
    visibility: Visibility
    version: int  # the one that counts
    latest: int
    created_at: int
    updated_at: int
    model: str | None  # of the version shown; None: any
    allow_model_override: bool
    shown: int  # the version that `body` and `model` are of
    is_own: bool = True
    body: bytes = b""


class PresetRecords(Message, frozen=True):
    """All of an owner's."""

    rows: tuple[PresetRecord, ...]


class PresetVersion(Message, frozen=True):
    """One version; `size` is that of its body's JSON in bytes."""

    version: int
    created_at: int
    model: str | None
    size: int
    counts: bool  # where none is named


class PresetVersions(Message, frozen=True):
    """All of a preset."""

    id: str
    slug: str
    rows: tuple[PresetVersion, ...]


PresetMessage = (
    FindPreset
    | FoundPreset
    | ForgetPreset
    | ForgetPresets
    | CreatePreset
    | SavePreset
    | ChangePreset
    | DeletePreset
    | ShowPreset
    | ListPresets
    | ListPresetVersions
    | PresetRecord
    | PresetRecords
    | PresetVersions
)
