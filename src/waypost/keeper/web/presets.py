"""Presets, by a management key: `/v1/presets`."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import UNSET

from waypost.api import preset_shapes, shapes
from waypost.errors import BY_CODE, Refusal
from waypost.keeper.web.asking import Asked
from waypost.keeper.web.sources import Sources, iso
from waypost.messages import AnyMessage, Failed
from waypost.policy.preset import Body, body_of_request, decode_fields, encode
from waypost.preset_messages import (
    ChangePreset,
    CreatePreset,
    DeletePreset,
    ListPresets,
    ListPresetVersions,
    PresetRecord,
    PresetRecords,
    PresetVersions,
    SavePreset,
    ShowPreset,
)

_names_field = re.compile(r"[a-z_]+(\.\w+|\[[0-9.]+\])*").fullmatch
_decode_shown = msgspec.json.Decoder(dict[str, Any]).decode
BODY = Body.__struct_fields__


async def list_presets(sources: Sources, asked: Asked) -> preset_shapes.PresetList:
    """The account's own."""
    found = await manage(sources, ListPresets(asked.caller.account_id))
    assert isinstance(found, PresetRecords)
    return preset_shapes.PresetList([render(row) for row in found.rows])


async def create_preset(sources: Sources, asked: Asked) -> preset_shapes.Preset:
    """With its first version."""
    new: preset_shapes.NewPreset = asked.body
    name = new.slug if new.name is UNSET else new.name
    message = CreatePreset(asked.caller.account_id, new.slug, name, new.visibility, encode(written(asked)))
    return render(record(await manage(sources, message)))


async def read_preset(sources: Sources, asked: Asked) -> preset_shapes.Preset:
    """The account's own, whole; of another's public one what everyone may know."""
    message = ShowPreset(asked.caller.account_id, asked.name, asked.query.version or 0)
    return render(record(await manage(sources, message)))


async def update_preset(sources: Sources, asked: Asked) -> preset_shapes.Preset:
    """Workers have forgotten what it was before the answer leaves."""
    new: preset_shapes.PresetChanges = asked.body
    changes = written(asked)
    message = ChangePreset(
        asked.caller.account_id,
        asked.name,
        None if new.slug is UNSET else new.slug,
        None if new.name is UNSET else new.name,
        None if new.visibility is UNSET else new.visibility,
        None if new.version is UNSET else new.version,
        encode(changes) if changes else None,
    )
    return render(record(await manage(sources, message)))


async def delete_preset(sources: Sources, asked: Asked) -> shapes.Message:
    """With all its versions."""
    await manage(sources, DeletePreset(asked.caller.account_id, asked.name))
    return shapes.Message("Preset deleted")


async def list_preset_versions(sources: Sources, asked: Asked) -> preset_shapes.PresetVersionList:
    """Of the account's own alone."""
    found = await manage(sources, ListPresetVersions(asked.caller.account_id, asked.name))
    assert isinstance(found, PresetVersions)
    rows = [
        preset_shapes.PresetVersionRow(row.version, row.counts, row.model, row.size, iso(row.created_at))
        for row in found.rows
    ]
    return preset_shapes.PresetVersionList(found.id, found.slug, rows)


async def save_preset(sources: Sources, asked: Asked) -> preset_shapes.Preset:
    """A request's body becomes a preset, or a new version of the one of that slug."""
    body, ignored = body_of_request(decode_fields(asked.raw))
    saved = record(await manage(sources, SavePreset(asked.caller.account_id, asked.name, body)))
    return msgspec.structs.replace(render(saved), ignored=list(ignored))


def written(asked: Asked) -> dict[str, msgspec.Raw]:
    """The fields of a request's body that stand in a version, as they came: their shapes have been checked."""
    return {name: value for name, value in decode_fields(asked.raw).items() if name in BODY}


def record(reply: AnyMessage) -> PresetRecord:
    """The answer to whatever is answered so."""
    assert isinstance(reply, PresetRecord)
    return reply


def render(row: PresetRecord) -> preset_shapes.Preset:
    """A preset as the pages show it; without a body, what everyone may know."""
    shown: dict[str, Any] = {}
    if row.body:
        given = _decode_shown(row.body)
        shown = {"system_prompt": None, "params": {}, "tools": [], "response_format": None, "provider": None}
        shown |= {name: given[name] for name in shown if name in given}
        shown["cache"] = msgspec.convert(given.get("cache"), preset_shapes.PresetCache | None)
    return preset_shapes.Preset(
        row.id,
        row.slug,
        row.name,
        row.visibility,
        row.is_own,
        row.shown,
        row.version,
        row.latest,
        row.model,
        row.allow_model_override,
        iso(row.created_at),
        iso(row.updated_at),
        **shown,
    )


async def manage(sources: Sources, message: AnyMessage) -> AnyMessage:
    """Carry it out. Raises Refusal with what the presets said; its `param` is the innermost field."""
    reply = await sources.manage(message)
    if not isinstance(reply, Failed):
        return reply
    field, colon, _ = reply.message.partition(": ")
    param = field if colon and _names_field(field) else None
    raise Refusal(reply.code if reply.code in BY_CODE else "INTERNAL_ERROR", reply.message, param=param)
