"""Accounts and their keys: every operation on them, each a message in and a message out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import bindparam, literal, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from waypost.config import Plan
from waypost.dollars import MAX_NANO, render_dollars
from waypost.keeper.account_keys import AccountKeys, parse_models
from waypost.keeper.account_rows import RECORDS, find_account, insert_account, no_account, read_account, spent_of
from waypost.keeper.outcome import AnyRow, Outcome, Plans, Refused, check_name
from waypost.keeper.presets import Presets
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import accounts, keys
from waypost.keeper.web.queries import read_spent
from waypost.messages import (
    AccountRecord,
    AccountRecords,
    AnyMessage,
    CreateAccount,
    CreateKey,
    CreditAccount,
    Failed,
    Forget,
    ForgetAccount,
    ForgetAll,
    Identify,
    Identity,
    ListAccounts,
    ListKeys,
    PatchKey,
    ReadSpent,
    ResolveAccount,
    RevokeKey,
    SetAccount,
    ShowKey,
    Spent,
    is_name,
)
from waypost.preset_messages import ForgetPresets

logger = logging.getLogger("waypost.keeper")

PAGE = 1000
"""Rows in one answer: with names of any length it stays far below a frame."""

FORGET_ONE_BY_ONE = 256
"""An account with more keys than this makes the workers forget everything instead."""

ATTEMPTS = 3
"""How often an operation is tried that another transaction, which made the same account, came before."""

_IDENTIFY = (
    select(
        keys.c.id.label("key_id"),
        keys.c.account_id,
        accounts.c.name.label("account"),
        accounts.c.plan,
        *keys.c["kind", "label", "models", "expires_at", "minute_limit", "daily_limit", "spend_limit", "spend_window"],
        keys.c.credit.label("key_credit"),
        accounts.c.credit.label("account_credit"),
    )
    .join_from(keys, accounts)
    .where(keys.c.digest == bindparam("digest"), keys.c.revoked_at.is_(None), accounts.c.disabled.is_(False))
)


class Accounts:
    """The operations. `plans` are those that the config knows; `clock` gives seconds since 1970 UTC."""

    def __init__(self, database: Database, plans: Mapping[str, Plan], clock: Callable[[], float]) -> None:
        self._database = database
        self._plans = Plans(plans)
        self._clock = clock
        self._answering = True
        account_keys = AccountKeys(database, self._plans, clock)
        self._operations: dict[type, Callable[[Any], Awaitable[Outcome]]] = {
            Identify: self._identify,
            ResolveAccount: self._resolve,
            CreateKey: account_keys.create,
            PatchKey: account_keys.patch,
            RevokeKey: account_keys.revoke,
            ShowKey: account_keys.show,
            ListKeys: account_keys.list,
            CreateAccount: self._create,
            SetAccount: self._set,
            CreditAccount: self._credit,
            ListAccounts: self._list,
            ReadSpent: self._read_spent,
            **Presets(database, clock).operations,
        }

    def adopt(self, plans: Mapping[str, Plan]) -> None:
        """The config has been read again: these are the plans that it knows now."""
        self._plans.adopt(plans)

    async def answer(self, message: AnyMessage) -> Outcome:
        """Carry out one message. Never raises for what callers or the database do: the reply is then `Failed`."""
        operation = self._operations.get(type(message))
        if operation is None:
            return Outcome(Failed("INVALID_REQUEST", f"the keeper does not answer {type(message).__name__}"))
        try:
            outcome = await self._carry_out(operation, message)
        except Refused as refused:
            outcome = Outcome(refused.failed)
        except (SQLAlchemyError, OSError) as error:
            return Outcome(self._database_failed(error))
        self._database_answered()
        return outcome

    async def _carry_out(self, operation: Callable[[Any], Awaitable[Outcome]], message: AnyMessage) -> Outcome:
        for _ in range(ATTEMPTS - 1):
            try:
                return await operation(message)
            except IntegrityError as error:
                logger.info("%s is tried again: %s", type(message).__name__, error.orig)
        return await operation(message)

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

    # Whose it is

    async def _identify(self, message: Identify) -> Outcome:
        async with self._database.reading() as connection:
            row = (await connection.execute(_IDENTIFY, {"digest": message.digest})).one_or_none()
        if row is None:
            return Outcome(None)
        return Outcome(Identity(**{**row._mapping, "models": parse_models(row.models)}))

    async def _resolve(self, message: ResolveAccount) -> Outcome:
        if not is_name(message.name):
            return Outcome(None)
        if message.plan is not None and message.plan not in self._plans:
            return Outcome(Failed("UNAVAILABLE", f"plan {message.plan!r} is not in the keeper's config (yet)"))
        async with self._database.reading() as connection:
            account = await find_account(connection, message.name)
        if account is not None:
            return Outcome(None if account.disabled else _identity_by_token(account, message.plan))
        if not message.create:
            return Outcome(None)
        try:
            plan = message.plan or self._plans.only(f"a token's account {message.name!r} is new")
        except Refused as refused:
            logger.warning("%s", refused)
            return Outcome(None)
        async with self._database.writing() as connection:
            account = await find_account(connection, message.name)
            if account is None:
                await insert_account(connection, message.name, plan, int(self._clock()))
                account = await find_account(connection, message.name)
        assert account is not None  # nothing ever deletes one
        return Outcome(
            None if account.disabled else _identity_by_token(account, message.plan), (ForgetAccount(message.name),)
        )

    # Accounts

    async def _create(self, message: CreateAccount) -> Outcome:
        check_name("account", message.name)
        self._plans.check(message.plan)
        async with self._database.writing() as connection:
            account = await find_account(connection, message.name)
            if account is not None:
                raise Refused("INVALID_REQUEST", f"account {message.name!r} exists already, on plan {account.plan!r}")
            plan = message.plan or self._plans.only(f"account {message.name!r} is new")
            await insert_account(connection, message.name, plan, int(self._clock()))
            return Outcome(await read_account(connection, message.name), (ForgetAccount(message.name),))

    async def _set(self, message: SetAccount) -> Outcome:
        check_name("account", message.name)
        self._plans.check(message.plan)
        changes = {"plan": message.plan, "disabled": message.disabled}
        changes = {column: value for column, value in changes.items() if value is not None}
        if not changes:
            raise Refused("INVALID_REQUEST", "nothing to change: give a plan, or say whether the account is disabled")
        async with self._database.writing() as connection:
            account = await find_account(connection, message.name)
            if account is None:
                raise no_account(message.name)
            outcome = await _change(connection, account, changes)
        if message.disabled is None:
            return outcome
        return msgspec.structs.replace(outcome, pushes=(*outcome.pushes, ForgetPresets()))

    async def _credit(self, message: CreditAccount) -> Outcome:
        check_name("account", message.name)
        if not message.add and message.prepaid is None:
            raise Refused("INVALID_REQUEST", "nothing to change: give an amount, or say whether the account is prepaid")
        async with self._database.writing() as connection:
            account = await find_account(connection, message.name)
            if account is None:
                raise no_account(message.name)
            credit = await _new_credit(connection, account, message)
            return await _change(connection, account, {"credit": credit})

    async def _read_spent(self, message: ReadSpent) -> Outcome:
        async with self._database.reading() as connection:
            spent = await read_spent(connection, message.meters)
        return Outcome(Spent(tuple(spent[meter] for meter in message.meters)))

    async def _list(self, message: ListAccounts) -> Outcome:
        statement = RECORDS.where(accounts.c.id > message.after).order_by(accounts.c.id).limit(PAGE)
        async with self._database.reading() as connection:
            rows = tuple(AccountRecord(**row._mapping) for row in await connection.execute(statement))
        return Outcome(AccountRecords(rows, rows[-1].id if len(rows) == PAGE else None))


async def _change(connection: AsyncConnection, account: AnyRow, changes: dict[str, Any]) -> Outcome:
    """Write an account's columns; everything that is known of it, its keys and its tokens is then out of date."""
    await connection.execute(update(accounts).where(accounts.c.id == account.id).values(changes))
    affected = select(keys.c.digest).where(keys.c.account_id == account.id, keys.c.revoked_at.is_(None))
    digests = (await connection.scalars(affected.limit(FORGET_ONE_BY_ONE + 1))).all()
    record = await read_account(connection, account.name)
    meters = (f"a{account.id}:", f"f{account.id}:")
    if len(digests) > FORGET_ONE_BY_ONE:
        return Outcome(record, (ForgetAll(),), meters)
    return Outcome(record, (*map(Forget, digests), ForgetAccount(account.name)), meters)


async def _new_credit(connection: AsyncConnection, account: AnyRow, message: CreditAccount) -> int | None:
    if message.prepaid is False:
        if message.add:
            raise Refused("INVALID_REQUEST", "add: an account that is not prepaid has no credit to add to")
        return None
    if account.credit is None and message.prepaid is None:
        raise Refused(
            "INVALID_REQUEST", f"account {account.name!r} is not prepaid; to make it so, give --prepaid as well"
        )
    before = account.credit
    if before is None:  # what it spent when it was prepaid last has been paid
        before = await connection.scalar(select(spent_of(literal(f"a{account.id}:balance:total"))))
    credit = int(before) + message.add
    if not 0 <= credit <= MAX_NANO:
        raise Refused(
            "INVALID_REQUEST",
            f"add: ${render_dollars(message.add)} would make ${render_dollars(credit)} of all that was ever paid in, "
            f"which is not between $0.00 and ${render_dollars(MAX_NANO)}",
        )
    return credit


def _identity_by_token(account: AnyRow, plan: str | None) -> Identity:
    return Identity(
        0, account.id, account.name, plan or account.plan, "inference", "token", account_credit=account.credit
    )
