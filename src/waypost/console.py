"""What commands share: where configuration and data are, asking the keeper, tables, and how a command fails."""

from __future__ import annotations

import os
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import Parameter

if TYPE_CHECKING:
    from waypost.config import Config
    from waypost.messages import AnyMessage

Path = pathlib.Path
ConfigOption = Annotated[
    Path | None, Parameter(name="--config", help="The configuration; default: waypost.toml in this folder, if there.")
]
DataOption = Annotated[Path | None, Parameter(name="--data", help="The data folder; default: ~/.local/share/waypost.")]


def ask(message: AnyMessage, config: Path | None, data: Path | None) -> AnyMessage:
    """Through the keeper, or the database itself where none runs; a failure ends the command."""
    import asyncio

    from waypost.keeper.direct import administer
    from waypost.messages import Failed

    folder = find_data(data)
    settings = load_config(find_config(config), folder)
    reply = asyncio.run(administer(folder, settings, message))
    if isinstance(reply, Failed):
        fail(reply.message)
    return reply


def find_config(option: Path | None) -> Path | None:
    """The configuration file, if there is one."""
    if option is not None:
        return option.absolute()
    here = Path("waypost.toml")
    return here.absolute() if here.exists() else None


def find_data(option: Path | None) -> Path:
    """The data folder."""
    if option is not None:
        return option.absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share", "waypost")


def simulator_socket(folder: Path) -> Path:
    """Where the simulator behind `route/demo` listens."""
    return folder / "simulator.sock"


def read_config(path: Path | None, folder: Path) -> Config:
    """The configuration as it is now. Raises ConfigError."""
    from waypost import config

    if path is not None:
        return config.load(path)
    return config.default(os.environ, str(simulator_socket(folder)))


def read_to_serve(path: Path | None, folder: Path) -> Config:
    """The same, with what it leans on tried: certificates, proxies. Raises ConfigError."""
    from waypost.config import ConfigError
    from waypost.worker.app import check

    settings = read_config(path, folder)
    try:
        check(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}" if path is not None else str(error)) from None
    return settings


def load_config(path: Path | None, folder: Path) -> Config:
    """The configuration, or the end of the command with its error."""
    from waypost.config import ConfigError

    try:
        return read_config(path, folder)
    except ConfigError as error:
        fail(str(error))


def day(seconds: float) -> str:
    """A UTC instant as people write it."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def show(table: object) -> None:
    """A table on standard output; piped to a program it keeps its full width."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 240, highlight=False).print(table)


def fail(message: str) -> NoReturn:
    """Say what is wrong on standard error and end with exit code 2."""
    print(f"waypost: {message}", file=sys.stderr)
    raise SystemExit(2)
