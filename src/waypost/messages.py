"""The link's messages: what the keeper, its workers and its commands say to each other."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from waypost.claims import AskAnswers, ForgetAnswer, TellAnswers
from waypost.keys import KeyKind, shown
from waypost.listing import ListMessage, Message
from waypost.preset_messages import PresetMessage

SpendWindow = Literal["day", "month", "total"]

PROTOCOL: Final = 3
"""Raised when a message changes its meaning; ends of different numbers don't talk."""


# What is asked and answered


class Hello(Message, frozen=True):
    """A worker's first call. From its answer on, the keeper pushes to it what to forget.

    `totals` are the units that it has of each meter, spent and unspent, by the meter's name; what does not fit into one
    frame has gone ahead in `Holding`.
    """

    worker: int
    protocol: int = PROTOCOL
    journal: str = ""  # none: this worker takes no leases
    totals: tuple[tuple[str, int], ...] = ()
    is_fresh: bool = False  # it has never been granted anything


class Welcome(Message, frozen=True):
    """The keeper is here, its database answers, and this connection is told what to forget. `version`: a `PROTOCOL`.

    `prices` changes with the price list: whoever has heard another since has to forget what the list said.
    """

    version: int
    prices: str = ""


class Identify(Message, frozen=True):
    """Whose key is it? Answered by an `Identity`, by None (unknown, revoked or disabled), or by `Failed`."""

    digest: bytes


class Identity(Message, frozen=True):
    """Who is calling. `plan` is a name: what it allows stands in the config; what follows `label` narrows it.

    `key_id` is 0 for a token, which has no key. Limits are requests, amounts are nano-dollars; None narrows nothing.
    """

    key_id: int
    account_id: int
    account: str
    plan: str
    kind: KeyKind
    label: str
    models: tuple[str, ...] | None = None  # patterns
    expires_at: int | None = None  # seconds since 1970 UTC
    minute_limit: int | None = None
    daily_limit: int | None = None
    spend_limit: int | None = None  # in each `spend_window`
    spend_window: SpendWindow | None = None
    key_credit: int | None = None  # ever given to the key
    account_credit: int | None = None  # ever paid in; None: not prepaid


class Trouble(Message, frozen=True):
    """Push: why this host should get no traffic, which `/readyz` tells; empty when it may again."""

    reason: str


class Forget(Message, frozen=True):
    """Push: drop what is known of this digest, good or bad; the key was created, revoked or changed."""

    digest: bytes


class ForgetAccount(Message, frozen=True):
    """Push: drop what is known of this account's tokens, good or bad; it was created or changed."""

    account: str


class ForgetAll(Message, frozen=True):
    """Push: drop everything known of any key or token."""


def is_name(value: str) -> bool:
    """May an account or a key be called so? 1 to 100 printable characters, without spaces at either end."""
    return 1 <= len(value) <= 100 and value.isprintable() and value == value.strip()


class ResolveAccount(Message, frozen=True):
    """A token, checked by the worker, names this account, and perhaps a plan; `create` it where it is missing.

    Answered by an `Identity` without a key, by None (unknown, disabled, or no account could be named so), or by
    `Failed`. A token's plan counts in place of the account's own; a new account is created on it.
    """

    name: str
    plan: str | None = None
    create: bool = False


class KillStreams(Message, frozen=True):
    """The keeper calls a worker: end all streams of this account. Answered by `KilledStreams`."""

    account: int


class KilledStreams(Message, frozen=True):
    """How many have been ended."""

    count: int


class Failed(Message, frozen=True):
    """The call did nothing. `code` is one of `errors.TABLE`; `message` names the field and the fix."""

    code: str
    message: str


# Leases: all of these are pushes, so that their order on the wire is the order of their effects. Units are differences:
# nothing is sent twice on one connection, and a new connection begins with the totals.


class Holding(Message, frozen=True):
    """Push, ahead of `Hello`: more of its totals."""

    totals: tuple[tuple[str, int], ...]


class Want(msgspec.Struct, frozen=True, array_like=True):
    """Units of one meter: at least `need`, for requests that wait; up to `ask`, so as not to ask again soon.

    `limit` is what the meter allows as the worker knows it; `ends` is when its window does, in seconds since 1970 UTC,
    0 for never.
    """

    meter: str
    need: int
    ask: int
    limit: int
    ends: int


class Take(Message, frozen=True):
    """Push: a worker asks for units. Answered by the `Grant` of the same serial. A meter is in one `Take` at a time.

    A want of nothing (`ask` is 0) only asks what could be granted. It is not waited for: the `Grant` may be without it.
    """

    serial: int
    wants: tuple[Want, ...]


class Granted(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a `Want`.

    `units` are the worker's now; with them it has `total`, by the keeper's count. `remaining` is what could still be
    granted. `refused`: there is no more, wherever one looks. `failure` is empty or says why nobody can tell.
    """

    meter: str
    units: int
    total: int
    remaining: int
    refused: bool = False
    failure: str = ""


class Grant(Message, frozen=True):
    """Push: the answer to the `Take` of this serial."""

    serial: int
    grants: tuple[Granted, ...]


class Recall(Message, frozen=True):
    """Push: give back every unspent unit of one meter, and from now on each at once, until the next grant of it.

    `meters` is a meter's name, or, empty or with a colon at its end, the beginning of the names of several. Answered by
    the `Returned` of the same serial.
    """

    serial: int
    meters: str


class Returned(Message, frozen=True):
    """Push: units that the worker no longer has, by the meter's name; negative where it has spent more than it had.

    `serial` is the `Recall`'s, or 0 where nobody asked.
    """

    serial: int
    units: tuple[tuple[str, int], ...]


# Health


class BreakerRow(msgspec.Struct, frozen=True, array_like=True):
    """A breaker that opened, rests or closed (`until` 0): see `policy.breaker`. `until` is on the host's own clock."""

    provider: str
    key: str
    model: str
    until: float
    openings: int
    is_open: bool


class BreakerNews(Message, frozen=True):
    """Push, both ways: what has changed; and the answer to `ListBreakers`."""

    rows: tuple[BreakerRow, ...]


class ListBreakers(Message, frozen=True):
    """Which breakers of this host are not closed? Answered by `BreakerNews`."""


# Administration


class KeyTerms(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What narrows a key, and all that may ever be changed of that: None takes a limit away, UNSET leaves it alone.

    `balance` sets what is left to spend (so that saying it twice changes nothing), whatever was spent before.
    """

    models: tuple[str, ...] | UnsetType | None = UNSET  # patterns
    expires_at: int | UnsetType | None = UNSET  # seconds since 1970 UTC
    minute_limit: int | UnsetType | None = UNSET  # requests
    daily_limit: int | UnsetType | None = UNSET  # requests
    spend_limit: int | UnsetType | None = UNSET  # nano-dollars in each `spend_window`
    spend_window: SpendWindow | UnsetType | None = UNSET
    balance: int | UnsetType | None = UNSET  # nano-dollars


# Who asks for himself names himself as `owner`, by his account's id: keys of others are then missing like any other.


class CreateKey(Message, frozen=True):
    """A new key for `account`, which is created on `plan` if it is missing; or for `owner`. Answered by `CreatedKey`.

    An owner gives no account and no plan, and makes only inference keys.
    """

    account: str
    plan: str | None = None
    label: str = "default"
    kind: KeyKind = "inference"
    terms: KeyTerms = KeyTerms()
    owner: int | None = None


class CreatedKey(Message, frozen=True):
    """The only message that ever carries a key to its owner."""

    key: str
    id: int
    account: str
    plan: str

    def __repr__(self) -> str:
        return f"CreatedKey(key='{shown(self.key)}', id={self.id}, account={self.account!r}, plan={self.plan!r})"


class RevokeKey(Message, frozen=True):
    """Revoke the key named by its id, by itself, or by the beginning of its shown form. Answered by its `KeyRecord`.

    An owner names it by its id.
    """

    key: str
    owner: int | None = None

    def __repr__(self) -> str:
        return f"RevokeKey(key='{_safe(self.key)}', owner={self.owner})"


class PatchKey(Message, frozen=True):
    """Change a key's label (None does not) and terms; it is named as in `RevokeKey`. Answered by its `KeyRecord`."""

    key: str
    label: str | None = None
    terms: KeyTerms = KeyTerms()
    owner: int | None = None

    def __repr__(self) -> str:
        return f"PatchKey(key='{_safe(self.key)}', label={self.label!r}, terms={self.terms!r}, owner={self.owner})"


class ShowKey(Message, frozen=True):
    """One key, named as in `RevokeKey`. Answered by its `KeyRecord`."""

    key: str
    owner: int | None = None

    def __repr__(self) -> str:
        return f"ShowKey(key='{_safe(self.key)}', owner={self.owner})"


def _safe(name: str) -> str:
    return shown(name) if len(name) > 20 else name


class ListKeys(Message, frozen=True):
    """Keys in the order of their ids, of one account or of all, those after id `after`. Answered by `KeyRecords`."""

    account: str | None = None
    after: int = 0
    owner: int | None = None


class KeyRecord(Message, frozen=True):
    """A key as listings show it. Times are seconds since 1970 UTC, amounts nano-dollars; None narrows nothing.

    `credit` is what the key was ever given, `balance` what is left of it.
    """

    id: int
    account: str
    shown: str
    label: str
    kind: KeyKind
    created_at: int
    revoked_at: int | None
    models: tuple[str, ...] | None = None
    expires_at: int | None = None
    minute_limit: int | None = None
    daily_limit: int | None = None
    spend_limit: int | None = None
    spend_window: SpendWindow | None = None
    credit: int | None = None
    balance: int | None = None


class KeyRecords(Message, frozen=True):
    """A page of keys; `after` is what to ask the next page with, None on the last."""

    rows: tuple[KeyRecord, ...]
    after: int | None = None


class CreateAccount(Message, frozen=True):
    """A new account. Answered by its `AccountRecord`."""

    name: str
    plan: str | None = None


class SetAccount(Message, frozen=True):
    """Move an account to another plan, disable or enable it; None changes nothing. Answered by its `AccountRecord`."""

    name: str
    plan: str | None = None
    disabled: bool | None = None


class CreditAccount(Message, frozen=True):
    """Add to what an account has paid in, nano-dollars, less than 0 to correct. Answered by its `AccountRecord`.

    `prepaid` True makes it an account that spends no more than that, beginning with a balance of `add`; False one that
    spends as its plan says; None leaves it as it is.
    """

    name: str
    add: int = 0
    prepaid: bool | None = None


class ListAccounts(Message, frozen=True):
    """Accounts in the order of their ids, those after id `after`. Answered by `AccountRecords`."""

    after: int = 0


class AccountRecord(Message, frozen=True):
    """An account as listings show it; `keys` counts those not revoked.

    `credit` is what was ever paid in, nano-dollars, `balance` what is left of it; None: not prepaid.
    """

    id: int
    name: str
    plan: str
    disabled: bool
    created_at: int
    keys: int
    credit: int | None = None
    balance: int | None = None


class AccountRecords(Message, frozen=True):
    """A page of accounts; `after` is what to ask the next page with, None on the last."""

    rows: tuple[AccountRecord, ...]
    after: int | None = None


# The books


class ReadSpent(Message, frozen=True):
    """How much of these meters is spent, by the books. Answered by `Spent`."""

    meters: tuple[str, ...]


class Spent(Message, frozen=True):
    """Units of each, in the same order."""

    units: tuple[int, ...]


class VerifyLedger(Message, frozen=True):
    """Count everything again. Answered by `Verified`, after as long as it takes."""


class Difference(msgspec.Struct, frozen=True, array_like=True):
    """Something that is not what it should be: what, where, what stands in the books, what was counted."""

    what: str
    where: str
    stored: str
    counted: str


class Verified(Message, frozen=True):
    """How much was counted, and the first of the `found` differences."""

    requests: int
    open: int
    attempts: int
    days: int
    meters: int
    differences: tuple[Difference, ...]
    found: int


AnyMessage = (
    Hello
    | Welcome
    | Identify
    | Identity
    | Trouble
    | Forget
    | ForgetAccount
    | ForgetAll
    | ResolveAccount
    | KillStreams
    | KilledStreams
    | Failed
    | Holding
    | Take
    | Grant
    | Recall
    | Returned
    | BreakerNews
    | ListBreakers
    | CreateKey
    | CreatedKey
    | RevokeKey
    | PatchKey
    | ShowKey
    | ListKeys
    | KeyRecord
    | KeyRecords
    | CreateAccount
    | SetAccount
    | CreditAccount
    | ListAccounts
    | AccountRecord
    | AccountRecords
    | ReadSpent
    | Spent
    | VerifyLedger
    | Verified
    | ListMessage
    | AskAnswers
    | TellAnswers
    | ForgetAnswer
    | PresetMessage
    | None
)
