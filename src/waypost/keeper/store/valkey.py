"""The store of fast meters in Valkey or Redis: one script moves a meter, and what is lost there is found again.

A meter is a hash: `taken`, and for each host what it has (`g:HOST`) and whether it was recalled (`r:HOST`). Hosts say
with every move what they have, so a server that has forgotten, all or the last of it, is put right as they speak. Of a
meter that it does not know, what the others have spent is looked up in the books, and stands for them (`p:HOST`) until
they have spoken themselves.

Redis's own client is used for the wire, not for its pool: a connection on which an answer is outstanding must never be
used again, whoever is cancelled when.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from waypost.keeper.store.counters import RELISTEN_SECONDS, StoreUnavailable
from waypost.policy.leases import Move, Moved

CHANNEL: Final = "waypost:recall"
TIMEOUT: Final = 0.05
"""Seconds that one exchange may take, connecting included."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0
"""Seconds for which a server that failed is not asked: doubled from the first to the longest."""

RESTATE_SECONDS: Final = 0.02
"""How long hosts have to say what they have of a meter that the server has forgotten."""

KEPT: Final = 3600
"""Seconds that a meter is kept after its window."""

KEPT_UNUSED: Final = 40 * 86_400
"""Seconds that a meter is kept which has no window and is not moved."""

EXACT: Final = 1 << 52
"""Limits are cut to this: the script's numbers are doubles, and every unit counts."""

# `Move.grant`, and the bookkeeping around it.
# KEYS: the meter. ARGV: host, limit, need, share, known, back, owed, whole, empty, seconds to keep, and, if it is known
# what other hosts have spent of a meter that is missing: "found", then host and units, …
SCRIPT: Final = """
local key, host = KEYS[1], ARGV[1]
local limit, need, share = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local known, back, owed = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local function text(number) return string.format('%.0f', number) end
local taken = tonumber(redis.call('HGET', key, 'taken'))
if not taken then
  if ARGV[11] ~= 'found' then return {'missing'} end
  taken = 0
  for index = 12, #ARGV, 2 do
    taken = taken + tonumber(ARGV[index + 1])
    redis.call('HSET', key, 'g:' .. ARGV[index], ARGV[index + 1], 'p:' .. ARGV[index], '1')
  end
end
local held = tonumber(redis.call('HGET', key, 'g:' .. host)) or 0
local spoken = redis.call('HGET', key, 'p:' .. host) ~= '1'
if held < known or not spoken then
  taken = taken + known - held
  held = known
end
local room = limit - (taken - back + owed)
local granted = math.max(0, math.min(room, math.max(need, math.floor(room / share))))
if ARGV[8] == '1' and room < need then granted = 0 end
taken = taken - back + owed + granted
held = held - back + owed + granted
local recalled = '0'
if ARGV[9] == '1' and granted == 0 then recalled = '1' end
redis.call('HSET', key, 'taken', text(taken), 'g:' .. host, text(held), 'r:' .. host, recalled)
if not spoken then redis.call('HDEL', key, 'p:' .. host) end
redis.call('EXPIRE', key, ARGV[10])
local answer = {'moved', text(granted), text(taken), text(held), 0}
local fields = redis.call('HGETALL', key)
for index = 1, #fields, 2 do
  local other = string.match(fields[index], '^g:(.*)$')
  if other and other ~= host and tonumber(fields[index + 1]) > 0 then
    answer[5] = answer[5] + 1
    if redis.call('HGET', key, 'r:' .. other) ~= '1' then table.insert(answer, other) end
  end
end
return answer
"""
_DIGEST: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

Spent = Callable[[str], Awaitable[Mapping[str, int]]]


class ValkeyCounters:
    """Meters in the server at `url`: valkey://[:PASSWORD@]HOST:PORT/N, valkeys:// with TLS, or the same with redis.

    `spent(meter)` tells from the books what each host has spent of it.
    """

    name = "Valkey"
    is_shared = True

    def __init__(
        self,
        url: str,
        host: str,
        spent: Spent,
        *,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises ValueError for a URL that is none."""
        self._host = host
        self._spent = spent
        self._timeout = timeout
        self._clock = clock
        scheme, colon, rest = url.partition("://")
        self._pool: Any = ConnectionPool.from_url(
            f"{scheme.replace('valkey', 'redis')}{colon}{rest}",
            protocol=2,
            decode_responses=True,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
        )
        self._connection: AbstractConnection | None = None
        self._free = asyncio.Lock()
        self._pause = FIRST_PAUSE
        self._closed_until = 0.0

    async def move(self, moves: Sequence[Move]) -> list[Moved]:
        """Part of `Counters`: in one exchange, but each by itself."""
        arguments = [self._arguments(move) for move in moves]
        replies = await self._run(arguments)
        missing = [index for index, reply in enumerate(replies) if reply[0] == "missing"]
        if missing:
            await self._exchange(
                [("PUBLISH", CHANNEL, f"{self._host} forgotten {moves[index].meter}") for index in missing]
            )
            found = [await self._found(moves[index].meter) for index in missing]
            if any(found):
                await asyncio.sleep(RESTATE_SECONDS)
            again = await self._run([[*arguments[i], "found", *spent] for i, spent in zip(missing, found, strict=True)])
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
        return [
            Moved(int(reply[1]), int(reply[2]), int(reply[3]), int(reply[4]), tuple(reply[5:])) for reply in replies
        ]

    async def call_back(self, meter: str) -> None:
        """Part of `Counters`."""
        await self._exchange([("PUBLISH", CHANNEL, f"{self._host} recall {meter}")])

    async def listen(self, recalled: Callable[[str], None], forgotten: Callable[[str], None]) -> None:
        """Part of `Counters`: on a connection of its own, made anew when it is lost."""
        while True:
            connection = self._pool.make_connection()
            try:
                with contextlib.suppress(RedisError, OSError):
                    await connection.connect()
                    await connection.send_command("SUBSCRIBE", CHANNEL)
                    while True:
                        kind, _, payload = await connection.read_response()
                        host, _, rest = str(payload).partition(" ")
                        what, _, meter = rest.partition(" ")
                        if kind == "message" and host != self._host:
                            (recalled if what == "recall" else forgotten)(meter)
            finally:
                await connection.disconnect(nowait=True)
            await asyncio.sleep(RELISTEN_SECONDS)

    async def close(self) -> None:
        """Part of `Counters`."""
        await self._drop()

    def _arguments(self, move: Move) -> list[str]:
        kept = max(KEPT, move.ends - int(self._clock()) + KEPT) if move.ends else KEPT_UNUSED
        numbers = (min(move.limit, EXACT), move.need, move.share, move.known, move.back, move.owed)
        flags = (int(move.is_whole), int(move.is_empty), kept)
        return [move.meter, self._host, *map(str, numbers), *map(str, flags)]

    async def _found(self, meter: str) -> list[str]:
        """What other hosts have spent of a meter that the server does not know: host, units, …"""
        spent = await self._spent(meter)
        return [text for host, units in spent.items() if host != self._host for text in (host, str(max(0, units)))]

    # One exchange

    async def _run(self, arguments: Sequence[Sequence[str]]) -> list[Any]:
        """Run the script for each; a server that does not know it is told."""
        replies = await self._exchange(
            [("EVALSHA", _DIGEST, "1", f"waypost:{each[0]}", *each[1:]) for each in arguments]
        )
        unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = await self._exchange(
                [("EVAL", SCRIPT, "1", f"waypost:{arguments[index][0]}", *arguments[index][1:]) for index in unknown]
            )
            for index, reply in zip(unknown, again, strict=True):
                replies[index] = reply
        for reply in replies:
            if isinstance(reply, ResponseError):  # out of memory, read-only, …
                self._close_for_a_while()
                raise StoreUnavailable(str(reply))
        return replies

    async def _exchange(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """Replies in the order of the commands, errors among them. Raises `StoreUnavailable`, for a while at once."""
        if asyncio.get_running_loop().time() < self._closed_until:
            raise StoreUnavailable("it has failed a moment ago")
        try:
            async with asyncio.timeout(self._timeout), self._free:
                try:
                    replies = await self._exchange_alone(commands)
                except BaseException:
                    await self._drop()
                    raise
        except TimeoutError:
            self._close_for_a_while()
            raise StoreUnavailable(f"no answer in {self._timeout * 1000:g} ms") from None
        except (RedisError, OSError) as error:
            self._close_for_a_while()
            raise StoreUnavailable(str(error) or type(error).__name__) from error
        self._pause = FIRST_PAUSE
        return replies

    async def _exchange_alone(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        if self._connection is None:
            self._connection = self._pool.make_connection()
            await self._connection.connect()
        connection = self._connection
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    def _close_for_a_while(self) -> None:
        self._closed_until = asyncio.get_running_loop().time() + self._pause
        self._pause = min(LONGEST_PAUSE, self._pause * 2)
