"""The command line, `waypost serve · sim · keys · accounts · presets · ledger · models · explain`."""

from __future__ import annotations

import os
import pathlib
import shlex
import time
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number

from waypost import __version__
from waypost.console import (
    ConfigOption,
    DataOption,
    ask,
    day,
    fail,
    find_config,
    find_data,
    load_config,
    read_config,
    read_to_serve,
    show,
    simulator_socket,
)
from waypost.key_options import KeyOptions, describe_amount, describe_limits
from waypost.model_commands import models
from waypost.preset_commands import presets

if TYPE_CHECKING:
    from collections.abc import Callable

    from waypost.api.routing_shapes import Verdict
    from waypost.config import Config
    from waypost.keys import KeyKind
    from waypost.messages import KeyTerms
    from waypost.policy.chains import Candidate

app = cyclopts.App(
    "waypost", version=__version__, help="An OpenAI-compatible router for language models that you run yourself."
)
keys = cyclopts.App("keys", help="Create, list and revoke API keys.")
accounts = cyclopts.App("accounts", help="Create, list and change accounts.")
app.command(keys)
ledger = cyclopts.App("ledger", help="The books.")
app.command(accounts)
app.command(ledger)
app.command(models)
app.command(presets)

Path = pathlib.Path


@app.command
def serve(
    *,
    config: ConfigOption = None,
    data: DataOption = None,
    listen: Annotated[str | None, Parameter(help="HOST:PORT or unix:PATH, instead of server.listen.")] = None,
    workers: Annotated[
        int | None,
        Parameter(help="Worker processes, instead of server.workers; 0: one a core.", validator=Number(gte=0)),
    ] = None,
) -> None:
    """Serve. Without a configuration: every provider whose usual key is in the environment, and route/demo."""
    from waypost import greeting, logs, supervisor
    from waypost.config import ConfigError, parse_listen
    from waypost.keeper.folder import FolderUnusable, check_free

    path, folder = find_config(config), find_data(data)
    try:
        settings = read_to_serve(path, folder)
        logs.configure(settings.server.log_format)
        address = listen or settings.server.listen
        parse_listen(address)
        count = settings.server.workers if workers is None else workers
        sockets = supervisor.bind(address, count or os.cpu_count() or 1)
        # Before anything of ours stands in it: another server that uses it must not notice.
        check_free(folder)
    except FolderUnusable as error:
        fail(f"{error}; another one is named with --data")
    except (ConfigError, ValueError, OSError) as error:
        fail(str(error))
    simulator = None if path is not None else simulator_socket(folder)
    given = (("--config", config), ("--data", data))
    options = "".join(f" {name} {shlex.quote(str(value.absolute()))}" for name, value in given if value is not None)
    base_url = greeting.address_of(sockets[0], settings)
    greeter = greeting.Greeting(folder, settings, base_url, fresh=path is None, options=options)
    raise SystemExit(
        supervisor.Supervisor(
            settings,
            lambda: read_to_serve(path, folder),
            folder,
            sockets,
            path,
            keeper=lambda current, parent, beat: keep(folder, path, current, parent, beat),
            simulator=(lambda parent: simulate(simulator, parent)) if simulator is not None else None,
        ).run(greeter.send)
    )


def keep(folder: Path, path: Path | None, settings: Config, parent: int, beat: Callable[[], None]) -> None:
    """The keeper's process; its imports are its own."""
    from waypost.keeper.app import run_keeper

    run_keeper(folder, settings, parent, read_settings=lambda: read_config(path, folder), beat=beat)


def simulate(socket: Path, parent: int) -> None:
    """The simulator's process behind `route/demo`."""
    from waypost.sim.app import run

    run(f"unix:{socket}", None, parent=parent)


@app.command
def sim(
    *,
    listen: Annotated[str, Parameter(help="HOST:PORT (port 0: a free one) or unix:PATH.")] = "127.0.0.1:0",
    journal: Annotated[Path | None, Parameter(help="Append what is received and sent to this file.")] = None,
) -> None:
    """Run the simulated provider on its own; it speaks every format, by the path, and fails on demand."""
    from waypost.sim.app import run

    try:
        run(listen, journal, ready=lambda address: print(f"listening on {address}", flush=True))
    except (OSError, ValueError) as error:
        fail(f"sim: {error}")


@app.command
def explain(
    model: str,
    /,
    *,
    as_: Annotated[
        str | None, Parameter(name="--as", help="A key: its id, its shown beginning, or itself; else as anyone.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Show whom a request for MODEL would go to, in order, and who is left out and why. Nothing is sent."""
    import asyncio

    from rich.table import Table

    from waypost.errors import Refusal
    from waypost.explain import explain as explain_route
    from waypost.explain import prices
    from waypost.worker.preflight import state_of

    folder = find_data(data)
    settings = load_config(find_config(config), folder)
    try:
        explained = asyncio.run(explain_route(settings, folder, model, as_))
    except Refusal as refusal:
        fail(f"{refusal.failure.code}: {refusal.message}")
    plan, chain, seconds = explained.plan, explained.found.route.chain, explained.found.route.deadline
    print(f"{model} is {explained.preset}{chain.name}, {plan.strategy}, {seconds:g} s for all attempts{explained.cost}")
    able = explained.rehearsal.able
    names = dict(zip((candidate.lane for candidate in plan.candidates), plan.names, strict=True))
    deaf = ["not told"] if any(each.dropped for each in able) else []
    weights = {each.candidate: explained.weight(each.candidate, names[each.candidate.lane]) for each in able}
    drawn = ["weight"] if any(weights.values()) else []
    heads = ("", "provider", "key", "model", "of", *drawn, "input $/M", "output $/M", "breaker", *deaf)
    table = Table(*heads, box=None, header_style="bold")

    def add(place: str, candidate: Candidate, of: str, *more: str) -> None:
        weight = [weights.get(candidate, "") for _ in drawn]
        table.add_row(place, *candidate.lane, of, *weight, *prices(candidate), *more)

    for number, each in enumerate(able, 1):
        state = state_of(each.candidate, explained.now)
        breaker = f"{state}, asked all the same" if plan.forced and state != "closed" else state
        add(str(number), each.candidate, names[each.candidate.lane], breaker, *(", ".join(each.dropped) for _ in deaf))
    for candidate, why in explained.rehearsal.unable:
        add("-", candidate, "", f"unable: {why}")
    for dropped in plan.dropped:
        add("-", dropped.candidate, "", f"{dropped.reason} {dropped.detail}".strip())
    show(table)
    if explained.limits is not None:
        show_limits(explained.limits)


def show_limits(limits: Verdict) -> None:
    """What a key's limits would say to a short question."""
    from rich.table import Table

    from waypost.explain import amount

    if limits.meters:
        table = Table("limit", "of", "left", "would take", box=None, header_style="bold")
        for meter in limits.meters:
            shown = (amount(units, meter.what) for units in (meter.limit, meter.left or 0, meter.need))
            table.add_row(f"{meter.what}/{meter.window}", *shown)
        show(table)
    print(f"{limits.code}: {limits.message}" if limits.code else "Its limits would admit a short question.")


@keys.command(name="create")
def create_key(
    *,
    account: Annotated[str, Parameter(help="The account; it is created where it does not exist.")],
    plan: Annotated[str | None, Parameter(help="The plan of a new account; may be left out if there is one.")] = None,
    label: Annotated[str, Parameter(help="What the key is for.")] = "default",
    management: Annotated[bool, Parameter(negative="", help="A key that manages and never infers.")] = False,
    options: KeyOptions | None = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Create a key. It is printed once, alone on standard output, and stored only as a digest."""
    from waypost.messages import CreatedKey, CreateKey

    kind: KeyKind = "management" if management else "inference"
    reply = ask(CreateKey(account, plan, label, kind, terms_of(options)), config, data)
    assert isinstance(reply, CreatedKey)
    print(reply.key)


@keys.command(name="set")
def set_key(
    key: str,
    /,
    *,
    label: Annotated[str | None, Parameter(help="What the key is for.")] = None,
    options: KeyOptions | None = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Change a key, named by its id, its shown beginning, or the key itself; `none` takes a limit away."""
    from waypost.messages import KeyRecord, PatchKey

    reply = ask(PatchKey(key, label, terms_of(options)), config, data)
    assert isinstance(reply, KeyRecord)
    limits = [describe_limits(reply)] if describe_limits(reply) else []
    if reply.balance is not None:
        limits.append(f"{describe_amount(reply.balance)} left")
    if reply.expires_at is not None:
        limits.append(f"until {day(reply.expires_at)} UTC")
    what = "; ".join(limits) or "no limits of its own"
    print(f"{reply.shown} (id {reply.id}, account {reply.account}, {reply.label}): {what}")


@keys.command(name="list")
def list_keys(*, account: str | None = None, config: ConfigOption = None, data: DataOption = None) -> None:
    """List the keys, of one account or of all."""
    from rich.table import Table

    from waypost.messages import KeyRecords, ListKeys

    reply = ask(ListKeys(account), config, data)
    assert isinstance(reply, KeyRecords)
    columns = ("id", "key", "account", "label", "kind", "created", "limits", "balance", "expires", "revoked")
    table = Table(*columns, box=None, header_style="bold")
    for row in reply.rows:
        table.add_row(
            str(row.id),
            row.shown,
            row.account,
            row.label,
            row.kind,
            day(row.created_at),
            describe_limits(row),
            describe_amount(row.balance),
            day(row.expires_at) if row.expires_at is not None else "",
            day(row.revoked_at) if row.revoked_at is not None else "",
        )
    show(table)


@keys.command(name="revoke")
def revoke_key(key: str, /, *, config: ConfigOption = None, data: DataOption = None) -> None:
    """Revoke a key, by its id, its shown beginning, or the key itself; workers forget it within a second."""
    from waypost.messages import KeyRecord, RevokeKey

    reply = ask(RevokeKey(key), config, data)
    assert isinstance(reply, KeyRecord)
    print(f"revoked {reply.shown} (id {reply.id}, account {reply.account}, {reply.label})")


@accounts.command(name="create")
def create_account(
    name: str, /, *, plan: str | None = None, config: ConfigOption = None, data: DataOption = None
) -> None:
    """Create an account on a plan."""
    from waypost.messages import AccountRecord, CreateAccount

    reply = ask(CreateAccount(name, plan), config, data)
    assert isinstance(reply, AccountRecord)
    print(f"created {reply.name} on plan {reply.plan}")


@accounts.command(name="set")
def set_account(
    name: str,
    /,
    *,
    plan: Annotated[str | None, Parameter(help="Move it to this plan.")] = None,
    disabled: Annotated[
        bool | None, Parameter(negative="--enabled", help="Refuse, or accept again, all its keys.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Change an account's plan, or disable it."""
    from waypost.messages import AccountRecord, SetAccount

    reply = ask(SetAccount(name, plan, disabled), config, data)
    assert isinstance(reply, AccountRecord)
    print(f"{reply.name} is on plan {reply.plan}{', disabled' if reply.disabled else ''}")


@accounts.command(name="credit")
def credit_account(
    name: str,
    /,
    *,
    add: Annotated[str, Parameter(help="US dollars that were paid in, such as 5.00; less than 0 corrects.")] = "0",
    prepaid: Annotated[
        bool | None, Parameter(negative="--postpaid", help="Spend no more than was paid in, or what the plan allows.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Add to an account's credit; --prepaid makes an account that spends no more than that."""
    from waypost.dollars import parse_dollars
    from waypost.messages import AccountRecord, CreditAccount

    try:
        amount = parse_dollars(add)
    except ValueError as error:
        fail(f"--add: {error}")
    reply = ask(CreditAccount(name, amount, prepaid), config, data)
    assert isinstance(reply, AccountRecord)
    if reply.credit is None:
        print(f"{reply.name} is not prepaid")
    else:
        balance, credit = describe_amount(reply.balance), describe_amount(reply.credit)
        print(f"{reply.name} has {balance} left of {credit} ever paid in")


@accounts.command(name="list")
def list_accounts(*, config: ConfigOption = None, data: DataOption = None) -> None:
    """List the accounts."""
    from rich.table import Table

    from waypost.messages import AccountRecords, ListAccounts

    reply = ask(ListAccounts(), config, data)
    assert isinstance(reply, AccountRecords)
    table = Table("account", "plan", "keys", "balance", "paid in", "created", "", box=None, header_style="bold")
    for row in reply.rows:
        table.add_row(
            row.name,
            row.plan,
            str(row.keys),
            describe_amount(row.balance),
            describe_amount(row.credit),
            day(row.created_at),
            "disabled" if row.disabled else "",
        )
    show(table)


@ledger.command(name="verify")
def verify_ledger(*, config: ConfigOption = None, data: DataOption = None) -> None:
    """Count everything again, from the rows of requests; say what differs, and end with exit code 1 if anything does.

    Sums that reach back to before the oldest rows that are kept (store.retention) are left out.
    """
    from rich.table import Table

    from waypost.messages import Verified, VerifyLedger

    reply = ask(VerifyLedger(), config, data)
    assert isinstance(reply, Verified)
    if reply.found:
        table = Table("what", "where", "in the books", "counted", box=None, header_style="bold")
        for row in reply.differences:
            table.add_row(row.what, row.where, row.stored, row.counted)
        show(table)
    print(
        f"counted {reply.requests:,} requests ({reply.open:,} open), {reply.attempts:,} failed attempts, "
        f"{reply.days:,} sums of days, {reply.meters:,} meters: "
        f"{f'{reply.found:,} differences' if reply.found else 'nothing differs'}"
    )
    if reply.found:
        raise SystemExit(1)


def terms_of(options: KeyOptions | None) -> KeyTerms:
    """A key's limits, or the end of the command with what is wrong with one."""
    try:
        return (options or KeyOptions()).terms(time.time())
    except ValueError as error:
        fail(str(error))


def main() -> None:
    """The `waypost` command."""
    app()
