"""`waypost presets`: an account's presets, from JSON or TOML files; each command imports what it needs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter

from waypost.console import ConfigOption, DataOption, ask, day, fail, show

if TYPE_CHECKING:
    from waypost.preset_messages import PresetRecord

presets = cyclopts.App("presets", help="Create, list and change an account's presets.")

AccountOption = Annotated[str, Parameter(name="--account", help="Whose presets.")]
PresetName = Annotated[str, Parameter(help="Its slug or id.")]
File = Annotated[
    Path,
    Parameter(help="JSON, or TOML (.toml), with the fields of POST /v1/presets; /dev/stdin is JSON through a pipe."),
]
META = ("slug", "name", "visibility")


@presets.command(name="list")
def list_presets(*, account: AccountOption, config: ConfigOption = None, data: DataOption = None) -> None:
    """List an account's presets."""
    from rich.table import Table

    from waypost.preset_messages import ListPresets, PresetRecords

    reply = ask(ListPresets(account), config, data)
    assert isinstance(reply, PresetRecords)
    table = Table("slug", "id", "name", "model", "visibility", "version", "changed", box=None, header_style="bold")
    for row in reply.rows:
        version = str(row.version) if row.version == row.latest else f"{row.version} of {row.latest}"
        table.add_row(row.slug, row.id, row.name, row.model or "any", row.visibility, version, day(row.updated_at))
    show(table)


@presets.command(name="show")
def show_preset(
    preset: PresetName,
    /,
    *,
    account: AccountOption,
    version: Annotated[int | None, Parameter(help="This version; default: the one that counts.")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Print a preset as JSON, in the form that `create` and `update` take."""
    from waypost.preset_messages import PresetRecord, ShowPreset

    reply = ask(ShowPreset(account, preset, version or 0), config, data)
    assert isinstance(reply, PresetRecord)
    if not reply.is_own:
        fail(f"{preset} is another account's; name that one with --account")
    meta = {"slug": reply.slug, "name": reply.name, "visibility": reply.visibility}
    print(json.dumps({**meta, **json.loads(reply.body)}, indent=2, ensure_ascii=False))


@presets.command(name="create")
def create_preset(
    file: File, /, *, account: AccountOption, config: ConfigOption = None, data: DataOption = None
) -> None:
    """Create a preset from a file; its id is printed, alone on standard output."""
    from waypost.preset_messages import CreatePreset

    fields = read_file(file)
    slug, name, visibility = (fields.pop(field, None) for field in META)
    if not isinstance(slug, str):
        fail(f"{file}: slug: is required, a string")
    check_meta(file, name, visibility)
    message = CreatePreset(
        account, slug, slug if name is None else name, visibility or "private", encoded(file, fields)
    )
    print(record_of(ask(message, config, data)).id)


@presets.command(name="update")
def update_preset(
    preset: PresetName,
    file: Annotated[
        Path | None, Parameter(help="What to change: fields as `create` takes them, null to remove.")
    ] = None,
    /,
    *,
    account: AccountOption,
    version: Annotated[int | None, Parameter(help="Make this version the one that counts.")] = None,
    visibility: Annotated[str | None, Parameter(help="private or public.")] = None,
    slug: Annotated[str | None, Parameter(help="Call it so.")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Change a preset: a file with fields makes a new version. Workers know it before the command ends."""
    from waypost.preset_messages import ChangePreset

    fields = read_file(file) if file is not None else {}
    named = {field: fields.pop(field, None) for field in META}
    slug, visibility = slug or named["slug"], visibility or named["visibility"]
    check_meta(file or Path("--visibility"), named["name"], visibility)
    changes = encoded(file, fields) if file is not None and fields else None
    message = ChangePreset(account, preset, slug, named["name"], visibility, version, changes)  # type: ignore[arg-type]
    row = record_of(ask(message, config, data))
    print(f"{row.slug} ({row.id}) is at version {row.version}, {row.visibility}")


@presets.command(name="delete")
def delete_preset(
    preset: PresetName, /, *, account: AccountOption, config: ConfigOption = None, data: DataOption = None
) -> None:
    """Delete a preset with all its versions."""
    from waypost.preset_messages import DeletePreset

    row = record_of(ask(DeletePreset(account, preset), config, data))
    print(f"deleted {row.slug} ({row.id}) and its versions")


@presets.command(name="versions")
def list_versions(
    preset: PresetName, /, *, account: AccountOption, config: ConfigOption = None, data: DataOption = None
) -> None:
    """List a preset's versions, the latest first."""
    from rich.table import Table

    from waypost.preset_messages import ListPresetVersions, PresetVersions

    reply = ask(ListPresetVersions(account, preset), config, data)
    assert isinstance(reply, PresetVersions)
    table = Table("version", "model", "bytes", "created", "", box=None, header_style="bold")
    for row in reply.rows:
        counts = "in use" if row.counts else ""
        table.add_row(str(row.version), row.model or "any", f"{row.size:,}", day(row.created_at), counts)
    show(table)


# Files


def read_file(path: Path) -> dict[str, Any]:
    """The table of a file, or the end of the command with what is wrong with it."""
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        fields = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    except (ValueError, RecursionError) as error:
        fail(f"{path}: not valid {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}")
    if not isinstance(fields, dict):
        fail(f"{path}: must be an object with the fields of a preset")
    return fields


def check_meta(file: Path, name: object, visibility: object) -> None:
    """What stands beside the versions, or the end of the command."""
    if name is not None and not isinstance(name, str):
        fail(f"{file}: name: must be a string")
    if visibility not in (None, "private", "public"):
        fail(f"{file}: visibility: {visibility!r} is neither private nor public")


def encoded(file: Path, fields: dict[str, Any]) -> bytes:
    """A version's fields as JSON, or the end of the command: TOML has dates and inf, which JSON lacks."""
    for where, value in leaves(fields):
        if isinstance(value, float) and not math.isfinite(value):
            fail(f"{file}: {where}: JSON has no {value}; write a finite number")
        if not isinstance(value, str | int | float | None):
            fail(f"{file}: {where}: JSON has no {type(value).__name__}; write it as a string, between quotes")
    return json.dumps(fields, ensure_ascii=False).encode()


def leaves(value: object, where: str = "") -> Iterator[tuple[str, object]]:
    """What stands innermost in tables and lists, and where: `params.stop[1]`."""
    match value:
        case dict():
            for name, each in value.items():
                yield from leaves(each, f"{where}.{name}".removeprefix("."))
        case list():
            for number, each in enumerate(value):
                yield from leaves(each, f"{where}[{number}]")
        case _:
            yield where, value


def record_of(reply: object) -> PresetRecord:
    """The answer to whatever is answered so."""
    from waypost.preset_messages import PresetRecord

    assert isinstance(reply, PresetRecord)
    return reply
