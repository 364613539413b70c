"""Presets in the store: every operation on them, each a message in and a message out. A version is never changed."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from sqlalchemy import and_, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from waypost.errors import Refusal
from waypost.keeper.account_rows import find_account, find_account_by_id, no_account
from waypost.keeper.outcome import AnyRow, Outcome, Refused, check_name
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import accounts, preset_versions, presets
from waypost.policy.preset import (
    UNSAID,
    Body,
    Fields,
    decode_fields,
    encode,
    is_id,
    is_slug,
    normal_name,
    parse_body,
    unknown,
)
from waypost.preset_messages import (
    PRESETS,
    SLUG,
    TOTAL,
    VERSIONS,
    ChangePreset,
    CreatePreset,
    DeletePreset,
    FindPreset,
    ForgetPreset,
    FoundPreset,
    ListPresets,
    ListPresetVersions,
    Owner,
    PresetRecord,
    PresetRecords,
    PresetVersion,
    PresetVersions,
    SavePreset,
    ShowPreset,
)

_FOUND: Final = select(presets, accounts.c.name.label("account"), accounts.c.disabled).join_from(presets, accounts)
_NULL: Final = msgspec.Raw(b"null")


class Presets:
    """The operations; `clock` gives seconds since 1970 UTC."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.operations: dict[type, Callable[[Any], Awaitable[Outcome]]] = {
            FindPreset: self._find,
            CreatePreset: self._create,
            SavePreset: self._save,
            ChangePreset: self._change,
            DeletePreset: self._delete,
            ShowPreset: self._show,
            ListPresets: self._list,
            ListPresetVersions: self._list_versions,
        }

    # For a request

    async def _find(self, message: FindPreset) -> Outcome:
        async with self._database.reading() as connection:
            row = await _find_usable(connection, message.account, message.name)
            if row is None:
                return Outcome(None)
            version = message.version or row.version
            body = await _read_body(connection, row.id, version)
        if body is None:
            return Outcome(FoundPreset(row.id, row.account_id, row.slug, 0, row.latest, b""))
        return Outcome(FoundPreset(row.id, row.account_id, row.slug, version, row.latest, body))

    # For who owns them

    async def _create(self, message: CreatePreset) -> Outcome:
        _check_slug(message.slug)
        check_name("name", message.name)
        body = _checked(message.body)
        async with self._database.writing() as connection:
            account = await _owner(connection, message.owner)
            if await _find_own(connection, account.id, message.slug) is not None:
                fix = "choose another, or change that one"
                raise Refused("INVALID_REQUEST", f"slug: the account has a preset {message.slug!r} already; {fix}")
            return await self._insert(connection, account, message.slug, message.name, message.visibility, body)

    async def _save(self, message: SavePreset) -> Outcome:
        _check_slug(message.slug)
        body = _checked(message.body)
        async with self._database.writing() as connection:
            account = await _owner(connection, message.owner)
            row = await _find_own(connection, account.id, message.slug)
            if row is None:
                return await self._insert(connection, account, message.slug, message.slug, "private", body)
            before = decode_fields(await _read_own_body(connection, row.id, row.version))
            kept = {name: before[name] for name in UNSAID if name in before}
            await self._add_version(connection, row, _checked(encode({**decode_fields(encode(body)), **kept})), {})
            return await _outcome(connection, row.id)

    async def _change(self, message: ChangePreset) -> Outcome:
        columns: dict[str, Any] = {}
        if message.slug is not None:
            _check_slug(message.slug)
            columns["slug"] = message.slug
        if message.name is not None:
            check_name("name", message.name)
            columns["name"] = message.name
        if message.visibility is not None:
            columns["visibility"] = message.visibility
        if message.changes is not None and message.version is not None:
            fix = "choose the version first, then change it"
            raise Refused("INVALID_REQUEST", f"version: cannot be chosen and made in one step; {fix}")
        async with self._database.writing() as connection:
            account = await _owner(connection, message.owner)
            row = await _own(connection, account.id, message.preset)
            other = await _find_own(connection, account.id, message.slug) if message.slug is not None else None
            if other is not None and other.id != row.id:
                raise Refused("INVALID_REQUEST", f"slug: {message.slug!r} is another of the account's presets")
            if message.version is not None:
                if await _read_body(connection, row.id, message.version) is None:
                    raise Refused(
                        "INVALID_REQUEST", f"version: there is no {message.version}; {row.latest} is the latest"
                    )
                columns["version"] = message.version
            if message.changes is not None:
                before = decode_fields(await _read_own_body(connection, row.id, row.version))
                await self._add_version(connection, row, _changed(before, message.changes), columns)
            elif columns:
                await self._write(connection, row, columns)
            else:
                raise Refused("INVALID_REQUEST", "nothing to change: give a field of the preset")
            return await _outcome(connection, row.id, row.slug)

    async def _delete(self, message: DeletePreset) -> Outcome:
        async with self._database.writing() as connection:
            account = await _owner(connection, message.owner)
            row = await _own(connection, account.id, message.preset)
            outcome = await _outcome(connection, row.id)
            await connection.execute(delete(preset_versions).where(preset_versions.c.preset_id == row.id))
            await connection.execute(delete(presets).where(presets.c.id == row.id))
            return outcome

    async def _show(self, message: ShowPreset) -> Outcome:
        async with self._database.reading() as connection:
            account = await _owner(connection, message.owner)
            row = await _find_usable(connection, account.id, message.preset)
            if row is None:
                raise _unknown()
            shown = message.version or row.version
            version = await _read_version(connection, row.id, shown)
        if version is None:
            raise Refused("PRESET_NOT_FOUND", f"version: there is no {shown}; {row.latest} is the latest")
        is_own = row.account_id == account.id
        return Outcome(_record(row, shown, version, version.body if is_own else b"", is_own=is_own))

    async def _list(self, message: ListPresets) -> Outcome:
        counting = and_(preset_versions.c.preset_id == presets.c.id, preset_versions.c.version == presets.c.version)
        told = preset_versions.c["model", "allow_model_override"]
        statement = _FOUND.add_columns(*told).join(preset_versions, counting)
        async with self._database.reading() as connection:
            account = await _owner(connection, message.owner)
            own = statement.where(presets.c.account_id == account.id).order_by(presets.c.slug)
            rows = (await connection.execute(own)).all()
        return Outcome(PresetRecords(tuple(_record(row, row.version, row, is_own=True) for row in rows)))

    async def _list_versions(self, message: ListPresetVersions) -> Outcome:
        async with self._database.reading() as connection:
            account = await _owner(connection, message.owner)
            row = await _own(connection, account.id, message.preset, lock=False)
            told = preset_versions.c["version", "created_at", "model", "size"]
            statement = select(*told).where(preset_versions.c.preset_id == row.id)
            rows = (await connection.execute(statement.order_by(preset_versions.c.version.desc()))).all()
        versions = tuple(
            PresetVersion(each.version, each.created_at, each.model, each.size, each.version == row.version)
            for each in rows
        )
        return Outcome(PresetVersions(row.id, row.slug, versions))

    # Writing

    async def _insert(
        self, connection: AsyncConnection, account: AnyRow, slug: str, name: str, visibility: str, body: Body
    ) -> Outcome:
        await self._check_room(connection, account.id, body)
        count = select(func.count()).select_from(presets).where(presets.c.account_id == account.id)
        if int(await connection.scalar(count) or 0) >= PRESETS:
            raise Refused("INVALID_REQUEST", f"an account has at most {PRESETS} presets; delete one first")
        now, preset_id = int(self._clock()), str(uuid.uuid4())
        values = {"id": preset_id, "account_id": account.id, "slug": slug, "name": name, "visibility": visibility}
        values |= {"version": 1, "latest": 1, "created_at": now, "updated_at": now}
        await connection.execute(insert(presets).values(values))
        await connection.execute(insert(preset_versions).values(_columns(preset_id, 1, body, now)))
        return await _outcome(connection, preset_id)

    async def _add_version(self, connection: AsyncConnection, row: AnyRow, body: Body, columns: dict[str, Any]) -> None:
        """The next version, which counts from now on."""
        number = row.latest + 1
        if number > VERSIONS:
            raise Refused("INVALID_REQUEST", f"a preset has at most {VERSIONS} versions; make a new preset")
        await self._check_room(connection, row.account_id, body)
        values = _columns(row.id, number, body, int(self._clock()))
        await connection.execute(insert(preset_versions).values(values))
        await self._write(connection, row, {**columns, "version": number, "latest": number})

    async def _check_room(self, connection: AsyncConnection, account: int, body: Body) -> None:
        """Raises Refused where an account has too much; others who add to it wait until this transaction is over."""
        await connection.execute(select(accounts.c.id).where(accounts.c.id == account).with_for_update())
        total = select(func.sum(preset_versions.c.size)).join_from(preset_versions, presets)
        had = int(await connection.scalar(total.where(presets.c.account_id == account)) or 0)
        if had + len(encode(body)) > TOTAL:
            raise Refused("INVALID_REQUEST", f"the presets of an account take at most {TOTAL} bytes; delete some first")

    async def _write(self, connection: AsyncConnection, row: AnyRow, columns: dict[str, Any]) -> None:
        values = {**columns, "updated_at": int(self._clock())}
        await connection.execute(update(presets).where(presets.c.id == row.id).values(values))


def _check_slug(slug: str) -> None:
    if is_slug(slug) is None or is_id(slug):
        what = f"1 to {SLUG} of a-z, 0-9, - and _, beginning with a letter or figure, and not an id"
        raise Refused("INVALID_REQUEST", f"slug: {what}; got {slug[:100]!r}")


def _checked(data: bytes) -> Body:
    try:
        return parse_body(data)
    except Refusal as refusal:
        raise Refused(refusal.failure.code, refusal.message) from None


def _changed(before: Fields, changes: bytes) -> Body:
    """A body with some fields replaced, and those that are null taken away."""
    fields = {**before, **decode_fields(changes)}
    return _checked(encode({name: value for name, value in fields.items() if value != _NULL}))


# The rows


async def _owner(connection: AsyncConnection, owner: Owner) -> AnyRow:
    if isinstance(owner, str):
        account = await find_account(connection, owner)
        if account is None:
            raise no_account(owner)
    else:
        account = await find_account_by_id(connection, owner)
        assert account is not None  # keys and tokens are somebody's, and nothing ever deletes an account
    return account


async def _find_usable(connection: AsyncConnection, account: int, name: str) -> AnyRow | None:
    """What an account may use: its own by slug or id, public ones of accounts that are not disabled by id."""
    own = presets.c.account_id == account
    if not is_id(name):
        return (await connection.execute(_FOUND.where(own, presets.c.slug == name))).one_or_none()
    public = and_(presets.c.visibility == "public", accounts.c.disabled.is_(False))
    statement = _FOUND.where(presets.c.id == normal_name(name), or_(own, public))
    return (await connection.execute(statement)).one_or_none()


async def _find_own(connection: AsyncConnection, account: int, name: str, *, lock: bool = True) -> AnyRow | None:
    """An account's own, by slug or id; others who change it wait until this transaction is over."""
    named = presets.c.id == normal_name(name) if is_id(name) else presets.c.slug == name
    statement = _FOUND.where(presets.c.account_id == account, named)
    return (await connection.execute(statement.with_for_update(of=presets) if lock else statement)).one_or_none()


async def _own(connection: AsyncConnection, account: int, name: str, *, lock: bool = True) -> AnyRow:
    row = await _find_own(connection, account, name, lock=lock)
    if row is None:
        raise _unknown()
    return row


def _unknown() -> Refused:
    refusal = unknown()
    return Refused(refusal.failure.code, refusal.message)


async def _read_body(connection: AsyncConnection, preset: str, version: int) -> bytes | None:
    where = (preset_versions.c.preset_id == preset, preset_versions.c.version == version)
    body: bytes | None = await connection.scalar(select(preset_versions.c.body).where(*where))
    return body


async def _read_version(connection: AsyncConnection, preset: str, version: int) -> AnyRow | None:
    where = (preset_versions.c.preset_id == preset, preset_versions.c.version == version)
    return (await connection.execute(select(preset_versions).where(*where))).one_or_none()


async def _read_own_body(connection: AsyncConnection, preset: str, version: int) -> bytes:
    body = await _read_body(connection, preset, version)
    assert body is not None  # the one that counts is always there
    return body


async def _outcome(connection: AsyncConnection, preset: str, *slugs: str) -> Outcome:
    """A preset as it is now, and what workers must forget: its slug, and those that it had before."""
    row = (await connection.execute(_FOUND.where(presets.c.id == preset))).one()
    version = await _read_version(connection, preset, row.version)
    assert version is not None  # the one that counts is always there
    record = _record(row, row.version, version, version.body, is_own=True)
    return Outcome(record, (ForgetPreset(row.id, row.account_id, tuple(dict.fromkeys((row.slug, *slugs)))),))


def _columns(preset: str, number: int, body: Body, now: int) -> dict[str, Any]:
    """A version's row."""
    data = encode(body)
    told = {"model": body.model, "allow_model_override": body.allow_model_override, "size": len(data)}
    return {"preset_id": preset, "version": number, "body": data, "created_at": now, **told}


def _record(row: AnyRow, shown: int, version: AnyRow, body: bytes = b"", *, is_own: bool) -> PresetRecord:
    return PresetRecord(
        row.id,
        row.account if is_own else "",
        row.slug,
        row.name,
        row.visibility,
        row.version,
        row.latest,
        row.created_at,
        row.updated_at,
        version.model,
        version.allow_model_override,
        shown,
        is_own,
        body,
    )
