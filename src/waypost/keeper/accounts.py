"""Accounts and their keys: every operation on them, each a message in and a message out."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, and_, bindparam, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import accounts, keys
from waypost.keys import digest_of, is_well_formed, mint_key, shown
from waypost.messages import (
    AccountRecord,
    AccountRecords,
    AnyMessage,
    CreateAccount,
    CreatedKey,
    CreateKey,
    Failed,
    Forget,
    ForgetAll,
    Identify,
    Identity,
    KeyRecord,
    KeyRecords,
    ListAccounts,
    ListKeys,
    RevokeKey,
    SetAccount,
)

AnyRow = Row[*tuple[Any, ...]]

logger = logging.getLogger("waypost.keeper")

PAGE = 1000
"""Rows in one answer: with names of any length it stays far below a frame."""

FORGET_ONE_BY_ONE = 256
"""An account with more keys than this makes the workers forget everything instead."""

_IDENTIFY = (
    select(
        keys.c.id.label("key_id"),
        keys.c.account_id,
        accounts.c.name.label("account"),
        accounts.c.plan,
        keys.c.kind,
        keys.c.label,
        keys.c.models,
        keys.c.expires_at,
        keys.c.minute_limit,
        keys.c.daily_limit,
        keys.c.spend_limit,
        keys.c.spend_window,
        keys.c.credit.label("key_credit"),
        accounts.c.credit.label("account_credit"),
    )
    .join_from(keys, accounts)
    .where(keys.c.digest == bindparam("digest"), keys.c.revoked_at.is_(None), accounts.c.disabled.is_(False))
)

_KEY_RECORDS = select(
    keys.c.id,
    accounts.c.name.label("account"),
    keys.c.shown,
    keys.c.label,
    keys.c.kind,
    keys.c.created_at,
    keys.c.revoked_at,
).join_from(keys, accounts)

_ACCOUNT_RECORDS = (
    select(*accounts.c["id", "name", "plan", "disabled", "created_at"], func.count(keys.c.id).label("keys"))
    .join_from(accounts, keys, and_(keys.c.account_id == accounts.c.id, keys.c.revoked_at.is_(None)), isouter=True)
    .group_by(accounts.c.id)
)


class Outcome(msgspec.Struct, frozen=True):
    """What to answer, and what every worker must be told before the answer goes out."""

    reply: AnyMessage
    pushes: tuple[Forget | ForgetAll, ...] = ()


class Refused(Exception):
    """The operation is not done; carries the `Failed` that says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.failed = Failed(code, message)


class Accounts:
    """The operations. `plans` are the names that the config knows; `clock` gives seconds since 1970 UTC."""

    def __init__(self, database: Database, plans: Sequence[str], clock: Callable[[], float]) -> None:
        self._database = database
        self._plans = tuple(plans)
        self._clock = clock
        self._answering = True
        self._operations: dict[type, Callable[[Any], Awaitable[Outcome]]] = {
            Identify: self._identify,
            CreateKey: self._create_key,
            RevokeKey: self._revoke_key,
            ListKeys: self._list_keys,
            CreateAccount: self._create_account,
            SetAccount: self._set_account,
            ListAccounts: self._list_accounts,
        }

    def adopt(self, plans: Sequence[str]) -> None:
        """The config has been read again: these are the names that it knows now."""
        self._plans = tuple(plans)

    async def answer(self, message: AnyMessage) -> Outcome:
        """Carry out one message. Never raises for what callers or the database do: the reply is then `Failed`."""
        operation = self._operations.get(type(message))
        if operation is None:
            return Outcome(Failed("INVALID_REQUEST", f"the keeper does not answer {type(message).__name__}"))
        try:
            outcome = await operation(message)
        except Refused as refused:
            outcome = Outcome(refused.failed)
        except (SQLAlchemyError, OSError) as error:
            return Outcome(self._database_failed(error))
        self._database_answered()
        return outcome

    async def ask(self, message: AnyMessage) -> AnyMessage:
        """`answer` for one who has no workers to tell."""
        return (await self.answer(message)).reply

    async def check(self) -> Failed | None:
        """Whether the database answers: None, or the failure to pass on."""
        try:
            async with self._database.reading() as connection:
                await connection.execute(_IDENTIFY, {"digest": b""})
        except (SQLAlchemyError, OSError) as error:
            return self._database_failed(error)
        self._database_answered()
        return None

    def _database_failed(self, error: Exception) -> Failed:
        reason = getattr(error, "orig", None) or error
        if self._answering:
            logger.error("the database cannot be asked: %s", reason)
        self._answering = False
        return Failed("UNAVAILABLE", f"the database cannot be asked: {reason}")

    def _database_answered(self) -> None:
        if not self._answering:
            logger.warning("the database answers again")
        self._answering = True

    # Keys

    async def _identify(self, message: Identify) -> Outcome:
        async with self._database.reading() as connection:
            row = (await connection.execute(_IDENTIFY, {"digest": message.digest})).one_or_none()
        return Outcome(None if row is None else _identity(row))

    async def _create_key(self, message: CreateKey) -> Outcome:
        _check_name("account", message.account)
        _check_name("label", message.label)
        self._check_plan(message.plan)
        key = mint_key(message.kind)
        digest = digest_of(key.encode())
        async with self._database.writing() as connection:
            account = await _find_account(connection, message.account)
            if account is None:
                plan = message.plan or self._only_plan(f"account {message.account!r} is new")
                account_id = await self._insert_account(connection, message.account, plan)
            else:
                account_id, plan = account.id, account.plan
                _check_fit_for_key(account, message.plan)
            result = await connection.execute(
                insert(keys).values(
                    account_id=account_id,
                    digest=digest,
                    shown=shown(key),
                    label=message.label,
                    kind=message.kind,
                    created_at=int(self._clock()),
                )
            )
            key_id = _new_id(result.inserted_primary_key)
        return Outcome(CreatedKey(key, key_id, message.account, plan), (Forget(digest),))

    async def _revoke_key(self, message: RevokeKey) -> Outcome:
        async with self._database.writing() as connection:
            found = (await connection.execute(_KEY_RECORDS.add_columns(keys.c.digest).where(_named(message.key)))).all()
            live = [row for row in found if row.revoked_at is None]
            if len(live) > 1:
                which = ", ".join(f"{row.id} ({row.shown})" for row in live[:5])
                raise Refused("INVALID_REQUEST", f"key: {len(live)} keys begin so: {which}; name one by its id")
            if not found:
                raise Refused("NOT_FOUND", "key: there is no such key; `waypost keys list` shows them with their ids")
            row = (live or found)[0]
            # Revoking twice is no error and keeps the first time: whoever revokes wants the key dead, not a story.
            revoked_at = row.revoked_at if row.revoked_at is not None else int(self._clock())
            await connection.execute(update(keys).where(keys.c.id == row.id).values(revoked_at=revoked_at))
        record = msgspec.structs.replace(_key_record(row), revoked_at=revoked_at)
        return Outcome(record, (Forget(row.digest),))

    async def _list_keys(self, message: ListKeys) -> Outcome:
        statement = _KEY_RECORDS.where(keys.c.id > message.after).order_by(keys.c.id).limit(PAGE)
        if message.account is not None:
            _check_name("account", message.account)
            statement = statement.where(accounts.c.name == message.account)
        async with self._database.reading() as connection:
            if message.account is not None and await _find_account(connection, message.account) is None:
                raise _no_account(message.account)
            rows = tuple(_key_record(row) for row in await connection.execute(statement))
        return Outcome(KeyRecords(rows, rows[-1].id if len(rows) == PAGE else None))

    # Accounts

    async def _create_account(self, message: CreateAccount) -> Outcome:
        _check_name("account", message.name)
        self._check_plan(message.plan)
        async with self._database.writing() as connection:
            account = await _find_account(connection, message.name)
            if account is not None:
                raise Refused("INVALID_REQUEST", f"account {message.name!r} exists already, on plan {account.plan!r}")
            plan = message.plan or self._only_plan(f"account {message.name!r} is new")
            await self._insert_account(connection, message.name, plan)
            return Outcome(await _read_account(connection, message.name))

    async def _set_account(self, message: SetAccount) -> Outcome:
        _check_name("account", message.name)
        self._check_plan(message.plan)
        changes = {"plan": message.plan, "disabled": message.disabled}
        changes = {column: value for column, value in changes.items() if value is not None}
        if not changes:
            raise Refused("INVALID_REQUEST", "nothing to change: give a plan, or say whether the account is disabled")
        async with self._database.writing() as connection:
            account = await _find_account(connection, message.name)
            if account is None:
                raise _no_account(message.name)
            await connection.execute(update(accounts).where(accounts.c.id == account.id).values(changes))
            affected = select(keys.c.digest).where(keys.c.account_id == account.id, keys.c.revoked_at.is_(None))
            digests = (await connection.scalars(affected.limit(FORGET_ONE_BY_ONE + 1))).all()
            record = await _read_account(connection, message.name)
        pushes = tuple(map(Forget, digests)) if len(digests) <= FORGET_ONE_BY_ONE else (ForgetAll(),)
        return Outcome(record, pushes)

    async def _list_accounts(self, message: ListAccounts) -> Outcome:
        statement = _ACCOUNT_RECORDS.where(accounts.c.id > message.after).order_by(accounts.c.id).limit(PAGE)
        async with self._database.reading() as connection:
            rows = tuple(AccountRecord(**row._mapping) for row in await connection.execute(statement))
        return Outcome(AccountRecords(rows, rows[-1].id if len(rows) == PAGE else None))

    async def _insert_account(self, connection: AsyncConnection, name: str, plan: str) -> int:
        values = {"name": name, "plan": plan, "disabled": False, "created_at": int(self._clock())}
        return _new_id((await connection.execute(insert(accounts).values(values))).inserted_primary_key)

    # Plans

    def _check_plan(self, plan: str | None) -> None:
        if plan is not None and plan not in self._plans:
            raise Refused("INVALID_REQUEST", f"plan {plan!r} is not in the config; {self._known_plans()}")

    def _only_plan(self, why: str) -> str:
        if len(self._plans) == 1:
            return self._plans[0]
        raise Refused("INVALID_REQUEST", f"plan: {why}, so say which plan it is on (--plan); {self._known_plans()}")

    def _known_plans(self) -> str:
        return f"it has: {', '.join(self._plans)}" if self._plans else "it has no plans: add a [plans.NAME] table"


# What is asked about, in SQL


def _named(key: str) -> ColumnElement[bool]:
    """The keys that `key` may mean: an id, a key, or the beginning of a key's shown form."""
    token = key.strip()
    if token.isascii() and token.isdigit() and len(token) < 19:
        return keys.c.id == int(token)
    if len(token) > 20:
        encoded = token.encode(errors="replace")
        if not is_well_formed(encoded):
            raise Refused("INVALID_REQUEST", f"key: {shown(token)} is mistyped, its checksum does not agree")
        return keys.c.digest == digest_of(encoded)
    # From four digits on: `rk_` alone would name the only key of a small installation.
    if not token.startswith(("rk_", "rkm_")) or len(token) < 7 or not token.isprintable():
        raise Refused("INVALID_REQUEST", "key: give its id, the key itself, or what `waypost keys list` shows of it")
    return keys.c.shown.startswith(token, autoescape=True)


async def _find_account(connection: AsyncConnection, name: str) -> AnyRow | None:
    return (await connection.execute(select(accounts).where(accounts.c.name == name))).one_or_none()


async def _read_account(connection: AsyncConnection, name: str) -> AccountRecord:
    return AccountRecord(**(await connection.execute(_ACCOUNT_RECORDS.where(accounts.c.name == name))).one()._mapping)


def _identity(row: AnyRow) -> Identity:
    return Identity(**{**row._mapping, "models": _parse_models(row.models)})


def _parse_models(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else msgspec.json.decode(text, type=tuple[str, ...])


def _key_record(row: AnyRow) -> KeyRecord:
    return KeyRecord(row.id, row.account, row.shown, row.label, row.kind, row.created_at, row.revoked_at)


def _new_id(primary_key: AnyRow | None) -> int:
    assert primary_key is not None  # an INSERT of one row always has one
    return int(primary_key[0])


# What is refused


def _check_name(field: str, value: str) -> None:
    if not 1 <= len(value) <= 100 or not value.isprintable() or value != value.strip():
        raise Refused(
            "INVALID_REQUEST",
            f"{field}: 1 to 100 printable characters, without spaces at either end; got {value[:100]!r}",
        )


def _check_fit_for_key(account: AnyRow, plan: str | None) -> None:
    if plan is not None and plan != account.plan:
        raise Refused(
            "INVALID_REQUEST",
            f"account {account.name!r} is on plan {account.plan!r}; "
            f"to move it: waypost accounts set {shlex.quote(account.name)} --plan {plan}",
        )
    if account.disabled:
        raise Refused(
            "INVALID_REQUEST",
            f"account {account.name!r} is disabled; "
            f"to enable it: waypost accounts set {shlex.quote(account.name)} --enabled",
        )


def _no_account(name: str) -> Refused:
    return Refused("NOT_FOUND", f"there is no account {name[:100]!r}; `waypost accounts list` shows them")
