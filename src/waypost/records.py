"""The lines of a journal: what a worker writes down and the keeper's books are made of.

A journal is the only thing that the hot path writes. A request is `Opened` before the first byte goes upstream and
`Settled` before the last byte goes to the caller; attempts that failed stand in between. One that is answered at once
with what another was is `Repeated`, which is both in one line. Lines are MessagePack arrays
that begin with their tag. Ids are the 26 characters of a ULID, times are milliseconds since 1970 UTC, money is in
integer nano-dollars (10⁻⁹ USD), counts of tokens are disjoint.
"""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tokens, each counted once: the prompt is the sum of the first six, the completion that of the last four."""

    fresh: int = 0  # text of the prompt that no cache had
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    image_input: int = 0
    output: int = 0  # without what stands below
    reasoning: int = 0
    audio_output: int = 0
    image_output: int = 0

    @property
    def prompt(self) -> int:
        """Everything that went in."""
        return (
            self.fresh
            + self.cache_read
            + self.cache_write_5m
            + self.cache_write_1h
            + self.audio_input
            + self.image_input
        )

    @property
    def completion(self) -> int:
        """Everything that came out."""
        return self.output + self.reasoning + self.audio_output + self.image_output


NOTHING = Usage()


class Line(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Whatever stands in a journal."""


class Opened(Line, frozen=True, gc=False, tag=1):
    """A request is about to cost something. `holds`: units it has taken of each meter, by the meter's name."""

    id: bytes
    at: int
    account: int
    key: int  # 0 for a JWT
    plan: str
    model: str  # as the caller asked for it
    stream: bool
    holds: tuple[tuple[str, int], ...]
    estimate: int  # tokens of the prompt, estimated
    estimated_cost: int  # what those tokens cost: the charge if the worker dies before it can say more


class Attempted(Line, frozen=True, gc=False, tag=2):
    """An attempt at an upstream failed. `status` is the upstream's, 0 if it sent none.

    `code` is a row of `errors.TABLE`; or HEDGED: another attempt of the request answered first.
    """

    id: bytes
    number: int  # 1 for a request's first
    at: int
    provider: str
    model: str
    code: str
    status: int
    milliseconds: int


class Settled(Line, frozen=True, gc=False, tag=3):
    """A request is over, however it ended.

    `status` is the HTTP status that the caller saw; `code` is empty for a whole answer, a row of `errors.TABLE`, or
    CLIENT_GONE. `requests` is what stays counted: 0 gives the request back. `tokens` and `cost` replace what was
    reserved. `price` names the version in `prices`. `raw` is the usage as the upstream wrote it, JSON, or empty.
    `source` is empty, or the id of the request whose answer was given again: nobody was asked, nothing was used.
    `saved` is what the upstream's prompt cache saved, below zero where it was only written.
    """

    id: bytes
    at: int
    status: int
    code: str
    provider: str
    upstream_model: str
    attempts: int
    requests: int
    tokens: int
    cost: int
    price: str
    usage: Usage
    estimated: bool
    first_token: int  # milliseconds from arrival to the first byte of the answer; 0 if there was none
    latency: int  # milliseconds from arrival to the end
    raw: bytes
    source: bytes = b""
    saved: int = 0


class Tally(Line, frozen=True, gc=False, tag=4):
    """What a worker counted since its last tally: refusals by code, calls for leases, look-ups of keys."""

    at: int
    refusals: dict[str, int]
    takes: int
    look_ups: int


class Priced(Line, frozen=True, gc=False, tag=5):
    """A price that lines of this journal name: written before the first of them. `terms` is JSON, for receipts."""

    version: str
    terms: bytes


class Repeated(Line, frozen=True, gc=False, tag=6):
    """A request was admitted and had its whole answer in the same moment: another's, as `source` of `Settled` says."""

    id: bytes
    at: int
    account: int
    key: int
    plan: str
    model: str
    stream: bool
    holds: tuple[tuple[str, int], ...]
    latency: int
    source: bytes

    def opened(self) -> Opened:
        """Its beginning. Nothing is estimated: it was never open."""
        return Opened(self.id, self.at, self.account, self.key, self.plan, self.model, self.stream, self.holds, 0, 0)

    def settled(self) -> Settled:
        """Its end: it counts, and costs nothing."""
        latency, source = self.latency, self.source
        return Settled(
            self.id, self.at, 200, "", "", "", 0, 1, 0, 0, "", NOTHING, False, latency or 1, latency, b"", source
        )


AnyLine = Opened | Attempted | Settled | Tally | Priced | Repeated
