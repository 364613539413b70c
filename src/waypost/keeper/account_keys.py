"""The operations on keys, for the operator and for an account's owner."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET
from sqlalchemy import ColumnElement, and_, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from waypost.keeper.account_rows import (
    balance_of,
    find_account,
    find_account_by_id,
    insert_account,
    new_id,
    no_account,
    spent_of,
)
from waypost.keeper.outcome import AnyRow, Outcome, Plans, Refused, check_name
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import accounts, keys
from waypost.keys import KeyKind, digest_of, is_well_formed, mint_key, shown
from waypost.messages import (
    CreatedKey,
    CreateKey,
    Forget,
    ForgetAccount,
    KeyRecord,
    KeyRecords,
    KeyTerms,
    ListKeys,
    PatchKey,
    RevokeKey,
    ShowKey,
)
from waypost.policy.terms import TermsRefused, check_terms

PAGE = 1000
"""Rows in one answer: with labels and a few patterns of any length it stays below a frame."""

_COLUMNS = ("models", "expires_at", "minute_limit", "daily_limit", "spend_limit", "spend_window")
"""What a key's terms say that stands in its row as it is said; `balance` does not."""

_RECORDS = select(
    keys.c.id,
    accounts.c.name.label("account"),
    *keys.c["shown", "label", "kind", "created_at", "revoked_at", *_COLUMNS, "credit"],
    balance_of("k", keys.c.id, keys.c.credit),
).join_from(keys, accounts)

_FOUND = _RECORDS.add_columns(keys.c.digest, keys.c.account_id)


class AccountKeys:
    """The operations; `clock` gives seconds since 1970 UTC."""

    def __init__(self, database: Database, plans: Plans, clock: Callable[[], float]) -> None:
        self._database = database
        self._plans = plans
        self._clock = clock

    async def create(self, message: CreateKey) -> Outcome:
        """A new key, for an account that is made where it is missing, or for an owner."""
        check_name("label", message.label)
        if message.owner is not None and (message.kind != "inference" or message.account or message.plan):
            raise Refused("INVALID_REQUEST", "kind: a management key makes inference keys of its own account alone")
        now = int(self._clock())
        key = mint_key(message.kind)
        digest = digest_of(key.encode())
        pushes: tuple[Forget | ForgetAccount, ...] = (Forget(digest),)
        async with self._database.writing() as connection:
            account = await self._account_for(connection, message)
            if account is None:
                plan = message.plan or self._plans.only(f"account {message.account!r} is new")
                name, balance = message.account, None
                account_id = await insert_account(connection, name, plan, now)
                pushes += (ForgetAccount(name),)
            else:
                account_id, name, plan, balance = account.id, account.name, account.plan, account.balance
            self._check(message.terms, KeyTerms(spend_limit=None, spend_window=None), message.kind, plan, balance)
            values = {"account_id": account_id, "digest": digest, "shown": shown(key), "label": message.label}
            values |= {"kind": message.kind, "created_at": now} | _columns(message.terms, spent=0)
            key_id = new_id((await connection.execute(insert(keys).values(values))).inserted_primary_key)
        return Outcome(CreatedKey(key, key_id, name, plan), pushes)

    async def patch(self, message: PatchKey) -> Outcome:
        """Change what an operator or owner may change of a key, which is all that `PatchKey` can say."""
        if message.label is not None:
            check_name("label", message.label)
        async with self._database.writing() as connection:
            row = await self._find(connection, message.key, message.owner)
            if row.revoked_at is not None:
                raise Refused("INVALID_REQUEST", f"key: {row.id} ({row.shown}) is revoked; make a new one")
            account = await find_account_by_id(connection, row.account_id)
            assert account is not None  # keys refer to it
            current = KeyTerms(spend_limit=row.spend_limit, spend_window=row.spend_window)
            self._check(message.terms, current, row.kind, account.plan, account.balance)
            spent = row.credit - row.balance if row.credit is not None else await _spent(connection, row.id)
            values = _columns(message.terms, spent)
            if message.label is not None:
                values["label"] = message.label
            if not values:
                raise Refused("INVALID_REQUEST", "nothing to change: give a label or one of the key's limits")
            await connection.execute(update(keys).where(keys.c.id == row.id).values(values))
            record = _record((await connection.execute(_RECORDS.where(keys.c.id == row.id))).one())
        return Outcome(record, (Forget(row.digest),), (f"k{row.id}:",))

    async def revoke(self, message: RevokeKey) -> Outcome:
        """The end of a key."""
        async with self._database.writing() as connection:
            row = await self._find(connection, message.key, message.owner)
            # Revoking twice is no error and keeps the first time: whoever revokes wants the key dead, not a story.
            revoked_at = row.revoked_at if row.revoked_at is not None else int(self._clock())
            await connection.execute(update(keys).where(keys.c.id == row.id).values(revoked_at=revoked_at))
        return Outcome(msgspec.structs.replace(_record(row), revoked_at=revoked_at), (Forget(row.digest),))

    async def show(self, message: ShowKey) -> Outcome:
        """One key, a revoked one too."""
        async with self._database.reading() as connection:
            return Outcome(_record(await self._find(connection, message.key, message.owner)))

    async def list(self, message: ListKeys) -> Outcome:
        """A page of keys."""
        statement = _RECORDS.where(keys.c.id > message.after).order_by(keys.c.id).limit(PAGE)
        if message.owner is not None:
            statement = statement.where(keys.c.account_id == message.owner)
        if message.account is not None:
            check_name("account", message.account)
            statement = statement.where(accounts.c.name == message.account)
        async with self._database.reading() as connection:
            if message.account is not None and await find_account(connection, message.account) is None:
                raise no_account(message.account)
            rows = tuple(_record(row) for row in await connection.execute(statement))
        return Outcome(KeyRecords(rows, rows[-1].id if len(rows) == PAGE else None))

    async def _account_for(self, connection: AsyncConnection, message: CreateKey) -> AnyRow | None:
        """The account of a new key, None where it has yet to be made."""
        if message.owner is not None:
            account = await find_account_by_id(connection, message.owner)
            if account is None:
                raise Refused("NOT_FOUND", "there is no such account")
        else:
            check_name("account", message.account)
            self._plans.check(message.plan)
            account = await find_account(connection, message.account)
        if account is not None:
            _check_fit_for_key(account, message.plan)
        return account

    async def _find(self, connection: AsyncConnection, key: str, owner: int | None) -> AnyRow:
        """The one key that is meant. Raises Refused, for an owner in the same words whatever is the matter."""
        found = (await connection.execute(_FOUND.where(_owned(key, owner) if owner is not None else _named(key)))).all()
        live = [row for row in found if row.revoked_at is None]
        if len(live) > 1:
            which = ", ".join(f"{row.id} ({row.shown})" for row in live[:5])
            raise Refused("INVALID_REQUEST", f"key: {len(live)} keys begin so: {which}; name one by its id")
        if not found:
            hint = "; `waypost keys list` shows them with their ids" if owner is None else ""
            raise Refused("NOT_FOUND", f"key: there is no such key{hint}")
        return (live or found)[0]

    def _check(self, terms: KeyTerms, current: KeyTerms, kind: KeyKind, plan: str, account_balance: int | None) -> None:
        if terms == KeyTerms():
            return
        if kind == "management" and msgspec.structs.replace(terms, expires_at=UNSET) != KeyTerms():
            raise Refused("INVALID_REQUEST", "a management key never infers: of all limits it takes only expires_at")
        try:
            check_terms(terms, current, plan, self._plans.get(plan), account_balance, self._clock())
        except TermsRefused as refused:
            raise Refused("INVALID_REQUEST", str(refused)) from None


def _owned(key: str, owner: int) -> ColumnElement[bool]:
    """An owner names keys by their ids; what cannot be one names none."""
    is_id = key.isascii() and key.isdigit() and len(key) < 19
    return and_(keys.c.id == (int(key) if is_id else 0), keys.c.account_id == owner)


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


def _columns(terms: KeyTerms, spent: int) -> dict[str, Any]:
    """The columns that terms write. A balance is what is to be left after what is `spent`."""
    values = {name: getattr(terms, name) for name in _COLUMNS if getattr(terms, name) is not UNSET}
    if isinstance(terms.models, tuple):
        values["models"] = msgspec.json.encode(terms.models).decode()
    if terms.balance is not UNSET:
        values["credit"] = None if terms.balance is None else spent + terms.balance
    return values


async def _spent(connection: AsyncConnection, key_id: int) -> int:
    """What a key without a credit has spent while it had one."""
    return int(await connection.scalar(select(spent_of(literal(f"k{key_id}:balance:total")))) or 0)


def _record(row: AnyRow) -> KeyRecord:
    fields = {name: getattr(row, name) for name in KeyRecord.__struct_fields__}
    return KeyRecord(**{**fields, "models": parse_models(row.models)})


def parse_models(text: str | None) -> tuple[str, ...] | None:
    """The patterns of a key's row."""
    return None if text is None else msgspec.json.decode(text, type=tuple[str, ...])


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
