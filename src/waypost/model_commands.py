"""`waypost models`: what can be called, and `waypost models update`: newer prices, looked at before they apply."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter

from waypost.console import ConfigOption, DataOption, fail, find_config, find_data, load_config, show

if TYPE_CHECKING:
    import pathlib

    from waypost.config import Config, Price
    from waypost.keeper.price_changes import Change
    from waypost.keeper.price_file import Stored
    from waypost.listing import NativeRecord
    from waypost.worker.catalogue import Facts

models = cyclopts.App("models", help="List the models, and bring their prices up to date.")


@models.default
def list_models(*, config: ConfigOption = None, data: DataOption = None) -> None:
    """List the models: the configured ones and their chains, and the native ones of known providers."""
    import asyncio

    from rich.table import Table

    folder = find_data(data)
    settings = load_config(find_config(config), folder)
    facts = asyncio.run(learn_facts(settings, folder))
    table = Table("model", "chain", "context", "input $/M", "output $/M", box=None, header_style="bold")

    def add(name: str, chain: Sequence[str], context: int | None, price: Price | NativeRecord | None) -> None:
        table.add_row(
            name,
            " → ".join(chain),
            "" if context is None else f"{context:,}",
            price.input if price else "",
            price.output if price else "",
        )

    for name, model in settings.models.items():
        record = facts.configured.get(name)
        add(name, model.chain, model.context or (record.context if record else None), model.price or record)
    for name, records in facts.natives.items():
        add(name, [f"{record.provider}/{record.id}" for record in records], records[0].context, records[0])
    show(table)


async def learn_facts(settings: Config, folder: pathlib.Path) -> Facts:
    """What the price list knows; nothing, and a line on standard error, where it cannot be asked."""
    from waypost.keeper.direct import price_list
    from waypost.link import LinkError, LinkLost
    from waypost.worker.catalogue import Facts, NoFacts, learn

    try:
        async with price_list(folder) as ask_list:
            return await learn(settings, ask_list)
    except (NoFacts, LinkLost, LinkError, TimeoutError) as error:
        print(f"waypost: shown without the price list: {error}", file=sys.stderr)
        return Facts()


@models.command(name="update")
def update_models(
    *,
    source: Annotated[
        str | None, Parameter(name="--from", help="A file, or an https:// address; default: genai-prices' own.")
    ] = None,
    yes: Annotated[bool, Parameter(negative="", help="Apply what has changed without asking.")] = False,
    json: Annotated[bool, Parameter(negative="", help="Print the changes as JSON.")] = False,
    every: Annotated[
        bool, Parameter(name="--all", negative="", help="Show every provider of the list, configured or not.")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Fetch the newest prices and context windows, show what changes, and apply it.

    The list goes into the data folder; a server that runs uses it at once. What the configuration says of a model's
    price and context still goes first.
    """
    from waypost.keeper.price_file import PriceListError

    folder = find_data(data)
    settings = load_config(find_config(config), folder)
    try:
        stored, changes = look(folder, source)
        if stored is None:
            report_nothing(json)
            return
        shown = changes if every else of_the_configured(settings, changes)
        print_json(shown) if json else print_table(shown, len(changes) - len(shown))
        if not yes and not (not json and sys.stdin.isatty() and confirmed()):
            print("waypost: nothing has been changed; --yes applies this", file=sys.stderr)
            return
        apply(folder, stored)
    except PriceListError as error:
        fail(str(error))


def look(folder: pathlib.Path, source: str | None) -> tuple[Stored | None, list[Change]]:
    """Fetch a list and compare it with the one in use; None where it is the same. Raises PriceListError."""
    from datetime import UTC, datetime

    import msgspec
    from genai_prices.update_prices import DEFAULT_UPDATE_URL

    from waypost.keeper.price_changes import compare
    from waypost.keeper.price_file import Stored, fetch, installed, parse
    from waypost.keeper.prices import load_list

    source = source or DEFAULT_UPDATE_URL
    body = fetch(source)
    new, (old, label) = parse(body), load_list(folder)
    now = datetime.now(UTC)
    stored = Stored(now.isoformat(timespec="seconds"), installed(), source, msgspec.Raw(body))
    changes = compare(old, new, now)
    is_same = stored.label.rpartition(" ")[2] == label.rpartition(" ")[2]  # by their hashes
    return (None if is_same or (not changes and new == old) else stored), changes


def of_the_configured(settings: Config, changes: list[Change]) -> list[Change]:
    """The changes that this configuration may notice; all, where it has no provider that the list knows."""
    from waypost.keeper.price_changes import of_providers
    from waypost.worker.upstreams import priced_providers

    names = priced_providers(settings)
    return of_providers(changes, names) if names else changes


def print_json(changes: list[Change]) -> None:
    """`[{"provider", "model", "change", "fields": {"input": ["0.15", "0.2"]}}]`."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(changes)).decode())


def print_table(changes: list[Change], others: int) -> None:
    """A row for each field that changes; of what is new or gone, one row."""
    from rich.table import Table

    if changes:
        table = Table("provider", "model", "what", "was", "will be", box=None, header_style="bold")
        for change in changes:
            if change.change != "changed":
                side = change.fields.items()
                facts = ", ".join(f"{name} {was or will}" for name, (was, will) in side)
                row: tuple[Any, ...] = (change.change, "", facts) if change.change == "new" else ("gone", facts, "")
                table.add_row(change.provider, change.model, *row)
                continue
            for name, (was, will) in change.fields.items():
                table.add_row(change.provider, change.model, name, was, will)
        show(table)
    unseen = f"; {others:,} of providers that are not configured (--all shows them)" if others else ""
    print(f"{len(changes):,} models change{unseen}")


def report_nothing(json: bool) -> None:
    """The list is the one in use."""
    print("[]" if json else "the prices are up to date")


def confirmed() -> bool:
    """Ask a person."""
    try:
        return input("Apply this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def apply(folder: pathlib.Path, stored: Stored) -> None:
    """Into the data folder, and to the keeper that runs there. Raises PriceListError."""
    import asyncio

    from waypost.keeper.direct import tell
    from waypost.keeper.price_file import write
    from waypost.listing import ReloadedPrices, ReloadPrices
    from waypost.messages import Failed

    write(folder, stored)
    reply = asyncio.run(tell(folder, ReloadPrices()))
    if isinstance(reply, Failed):
        fail(f"the list is in {folder}, but the keeper does not use it: {reply.message}")
    if isinstance(reply, ReloadedPrices):
        print(f"in use from now on: {reply.list}", file=sys.stderr)
    else:
        print(f"in use from the next start: {stored.label}", file=sys.stderr)
