"""What every operation on accounts, keys and presets has in common: its outcome, its refusal, the plans it goes by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Row

from waypost.config import Plan
from waypost.messages import AnyMessage, Failed, Forget, ForgetAccount, ForgetAll, is_name
from waypost.preset_messages import ForgetPreset, ForgetPresets

AnyRow = Row[*tuple[Any, ...]]


Push = Forget | ForgetAccount | ForgetAll | ForgetPreset | ForgetPresets


class Outcome(msgspec.Struct, frozen=True):
    """What to answer, and what every worker must be told before the answer goes out.

    `meters` are the beginnings of the names of meters whose limits have changed: `k3:`.
    """

    reply: AnyMessage
    pushes: tuple[Push, ...] = ()
    meters: tuple[str, ...] = ()


class Refused(Exception):
    """The operation is not done; carries the `Failed` that says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.failed = Failed(code, message)


class Plans:
    """The plans that the config knows now."""

    def __init__(self, plans: Mapping[str, Plan]) -> None:
        self._plans = dict(plans)

    def adopt(self, plans: Mapping[str, Plan]) -> None:
        """The config has been read again."""
        self._plans = dict(plans)

    def __contains__(self, name: str) -> bool:
        return name in self._plans

    def get(self, name: str) -> Plan:
        """A plan that an account is on. Raises Refused where the config has it no more."""
        self.check(name)
        return self._plans[name]

    def check(self, name: str | None) -> None:
        """Raises Refused where a plan is named that is not there."""
        if name is not None and name not in self._plans:
            raise Refused("INVALID_REQUEST", f"plan {name!r} is not in the config; {self._known()}")

    def only(self, why: str) -> str:
        """The plan's name where there is but one. Raises Refused; `why` says what a plan is wanted for."""
        if len(self._plans) == 1:
            return next(iter(self._plans))
        raise Refused("INVALID_REQUEST", f"plan: {why}, so say which plan it is on (--plan); {self._known()}")

    def _known(self) -> str:
        return f"it has: {', '.join(self._plans)}" if self._plans else "it has no plans: add a [plans.NAME] table"


def check_name(field: str, value: str) -> None:
    """Raises Refused where an account or a label could not be called so."""
    if not is_name(value):
        raise Refused(
            "INVALID_REQUEST",
            f"{field}: 1 to 100 printable characters, without spaces at either end; got {value[:100]!r}",
        )
