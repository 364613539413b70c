"""The planner: a chain, what the caller asks for, and how everybody is → whom to ask, in order, and whom not, and why.

Pure: clock and dice are arguments, and nothing that it looks at is changed, so `waypost explain` asks the same function
that carries the traffic.
"""

from __future__ import annotations

import msgspec

from waypost.errors import Refusal
from waypost.policy.breaker import passing
from waypost.policy.chains import Candidate, Chain, Dropped, Keys, Plan, Target
from waypost.policy.preferences import NONE, Preferences
from waypost.policy.retry import Dice
from waypost.policy.stickiness import Conversation, Sticky


class Asked(msgspec.Struct, frozen=True):
    """What a request asks of its upstream.

    `tokens`: what its prompt is estimated at, and `modalities` what it brings (text aside), both needed only for a
    `picky` chain; `parameters`: the names of its fields, needed for `require_parameters`. `models`: the chains that the
    caller names as fallbacks. `thinks`: the model's name asks for reasoning.
    """

    preferences: Preferences = NONE
    tokens: int = 0
    modalities: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()
    models: tuple[Chain, ...] = ()
    thinks: bool = False


ANYTHING = Asked()
"""No preferences, no needs: most requests."""


class Draft:
    """A plan in the making: targets in order, each with the name of its chain, and what has been dropped."""

    __slots__ = ("dropped", "rows")

    def __init__(self) -> None:
        self.rows: list[tuple[Keys, str]] = []
        self.dropped: list[Dropped] = []

    def drop(self, keys: Keys, reason: str, detail: str = "") -> None:
        """Leave a target out."""
        self.dropped += [Dropped(candidate, reason, detail) for candidate in keys]

    def keep(self, rows: list[tuple[Keys, str]], reason: str, detail: str = "") -> None:
        """Only these are left."""
        for row in self.rows:
            if row not in rows:
                self.drop(row[0], reason, detail)
        self.rows = rows


def plan(chain: Chain, asked: Asked, conversation: Conversation, now: float, dice: Dice) -> Plan:
    """Whom to ask. A plan without candidates says in `dropped` why (`refusal` puts it into words)."""
    plain = chain.plain
    if plain is not None and asked is ANYTHING and not chain.sticky.kept:
        # The usual case: an ordered chain, nothing special asked, nobody in trouble.
        if plain.forced:
            return plain
        for candidate in plain.candidates:
            if candidate.breaker.until:
                break
        else:
            return plain
    return consider(chain, asked, conversation, now, dice)


def consider(chain: Chain, asked: Asked, conversation: Conversation, now: float, dice: Dice) -> Plan:
    """The whole of the planning, in the order in which the rules apply."""
    wanted, draft = asked.preferences, Draft()
    operators = chain.fallbacks if wanted.allow_fallbacks else ()
    for link in dict.fromkeys((chain, *asked.models, *operators)):
        order(draft, link, asked, now, dice)
    if wanted.across_models:
        draft.rows = sorted_by(wanted.sort or "price", draft.rows, now)
    if wanted.max_latency or wanted.min_throughput:
        draft.rows.sort(key=lambda row: is_slow(row[0][0], wanted, now))
    check_context(draft, asked)

    candidates, names = flatten(draft, dice)
    home = candidates[0] if candidates else None
    stuck, has_results = None, False
    if candidates and not wanted.order and chain.sticky.kept:
        candidates, names, stuck = stick(candidates, names, conversation, chain.sticky, now)
    if candidates and (chain.strict or (stuck is not None and not stuck.target.moves_tools)):
        has_results = conversation.has_tool_results
    if has_results:
        candidates, names = pin(draft, candidates, names, strict=chain.strict)
    candidates, names, forced = without_open(draft, candidates, names, now)
    return Plan(
        tuple(candidates),
        tuple(names),
        strategy_name(chain, wanted),
        tuple(draft.dropped),
        forced=forced,
        sticky=stuck is not None and candidates[0] is stuck,
        home=home,
        attempts=1 if has_results and chain.strict else 0,
        elsewhere=frozenset(link.name for link in asked.models),
        larger=chain.larger,
        keeps=chain.wanders or any(not keys[0].target.moves_tools for keys, _ in draft.rows),
    )


def eligible(chain: Chain, asked: Asked) -> list[Candidate]:
    """Whom a plan of such requests may name: by what the caller says, not yet by what one request brings."""
    wanted = asked.preferences
    operators = chain.fallbacks if wanted.allow_fallbacks else ()
    targets = [keys for link in dict.fromkeys((chain, *asked.models, *operators)) for keys in link.targets]
    if wanted.order and not wanted.allow_fallbacks:
        named = frozenset(wanted.order)
        targets = [keys for keys in targets if is_named(keys[0].target, named)]
    return [candidate for keys in targets if misfit(keys[0].target, asked) is None for candidate in keys]


def strategy_name(chain: Chain, wanted: Preferences) -> str:
    """What decided the order: the caller's `order` or `sort`, else the chain's own strategy."""
    return "order" if wanted.order else f"sort:{wanted.sort}" if wanted.sort else chain.strategy


# One chain after the other


def order(draft: Draft, chain: Chain, asked: Asked, now: float, dice: Dice) -> None:
    """Append a chain's targets as its strategy or the caller's preferences order them."""
    wanted, kept = asked.preferences, []
    for keys in chain.targets:
        if (why := misfit(keys[0].target, asked)) is None:
            kept.append((keys, chain.name))
        else:
            draft.drop(keys, *why)
    if wanted.order:
        ranks = {name: rank for rank, name in enumerate(wanted.order)}
        first = [row for row in kept if rank_of(row[0][0].target, ranks) < len(ranks)]
        rest = [row for row in kept if row not in first]
        first.sort(key=lambda row: rank_of(row[0][0].target, ranks))
        if not wanted.allow_fallbacks:
            for keys, _ in rest:
                draft.drop(keys, "no_fallbacks", "not in provider.order")
            rest = []
        draft.rows += first + arranged(rest, chain, wanted, now, dice)
    else:
        rows = arranged(kept, chain, wanted, now, dice)
        if not wanted.allow_fallbacks:
            for keys, _ in rows[1:]:
                draft.drop(keys, "no_fallbacks", "only the first choice may answer")
            rows = rows[:1]
        draft.rows += rows


def arranged(
    rows: list[tuple[Keys, str]], chain: Chain, wanted: Preferences, now: float, dice: Dice
) -> list[tuple[Keys, str]]:
    """A chain's targets by the caller's `sort`, else by its own strategy. `price` is in order already."""
    if len(rows) < 2:
        return rows
    if wanted.sort:
        return sorted_by(wanted.sort, rows, now)
    if chain.strategy == "weighted":
        return drawn(rows, dice)
    if chain.strategy == "latency":
        return better_of_two(rows, now, dice)
    return rows


def sorted_by(sort: str, rows: list[tuple[Keys, str]], now: float) -> list[tuple[Keys, str]]:
    """Best first; of whom nothing is known, last."""

    def by_price(row: tuple[Keys, str]) -> float:
        return row[0][0].target.blended

    def by_latency(row: tuple[Keys, str]) -> float:
        return row[0][0].speed.first_token.percentile(0.5, now) or float("inf")

    def by_throughput(row: tuple[Keys, str]) -> float:
        return -(row[0][0].speed.throughput.percentile(0.5, now) or 0.0)

    return sorted(rows, key={"price": by_price, "latency": by_latency, "throughput": by_throughput}[sort])


def drawn(rows: list[tuple[Keys, str]], dice: Dice) -> list[tuple[Keys, str]]:
    """A lottery for each place, by weight. A target without weight only comes after all others."""
    pool, ordered = rows.copy(), []
    while len(pool) > 1:
        ticket = dice() * sum(row[0][0].target.weight for row in pool)
        for row in pool:
            ticket -= row[0][0].target.weight
            if ticket < 0:
                break
        else:
            row = pool[0]
        pool.remove(row)
        ordered.append(row)
    return ordered + pool


def better_of_two(rows: list[tuple[Keys, str]], now: float, dice: Dice) -> list[tuple[Keys, str]]:
    """Two by lot, the less burdened of them first; the others follow, the least burdened first.

    Not simply the best of all: everybody would rush to it at once.
    """
    burdens = [row[0][0].speed.burden(now) for row in rows]
    one = int(dice() * len(rows))
    other = int(dice() * (len(rows) - 1))
    other += other >= one
    best = one if burdens[one] <= burdens[other] else other
    rest = sorted((index for index in range(len(rows)) if index != best), key=burdens.__getitem__)
    return [rows[index] for index in (best, *rest)]


# Who cannot, or may not


def rank_of(target: Target, ranks: dict[str, int]) -> int:
    """The place in the caller's `order` of a provider, or of `provider/model`."""
    provider = target.provider.lower()
    return min(ranks.get(provider, len(ranks)), ranks.get(f"{provider}/{target.model.lower()}", len(ranks)))


def is_named(target: Target, names: frozenset[str]) -> bool:
    """Do these names mean this target? They are in lower case."""
    provider = target.provider.lower()
    return provider in names or f"{provider}/{target.model.lower()}" in names


def misfit(target: Target, asked: Asked) -> tuple[str, str] | None:
    """Why a target cannot or may not answer this request; None where it fits."""
    if asked is ANYTHING:
        return None
    if target.modalities is not None and not asked.modalities <= target.modalities:
        return "modality", f"takes no {', '.join(sorted(asked.modalities - target.modalities))}"
    if asked.thinks and target.reasons is False:
        return "reasoning", f"{target.model} cannot be asked to reason, as :thinking does"
    wanted = asked.preferences
    if wanted is NONE:
        return None
    if is_named(target, wanted.ignore):
        return "ignore", "in provider.ignore"
    if wanted.only and not is_named(target, wanted.only):
        return "only", "not in provider.only"
    if wanted.deny_data_collection and target.keeps_data:
        return "data_collection", "not declared to keep no data"
    if wanted.require_parameters and target.parameters is not None and not asked.parameters <= target.parameters:
        return "parameters", f"does not obey {', '.join(sorted(asked.parameters - target.parameters))}"
    if wanted.free and target.prices != (0, 0, 0):
        return "free", "not free"
    return too_dear(target, wanted)


def too_dear(target: Target, wanted: Preferences) -> tuple[str, str] | None:
    """`max_price` refuses, a price that is not known too."""
    if not any(limit is not None for limit in wanted.max_price):
        return None
    if target.prices is None:
        return "max_price", "its price is not known"
    for limit, price, what in zip(wanted.max_price, target.prices, ("prompt", "completion", "request"), strict=True):
        if limit is not None and price > limit:
            return "max_price", f"{what} costs {price / 1e9:g}, more than {limit / 1e9:g}"
    return None


def is_slow(candidate: Candidate, wanted: Preferences, now: float) -> bool:
    """Does a target miss one of the caller's thresholds? Such come last; who is not known is not slow."""
    speed = candidate.speed
    late = (speed.first_token.percentile(share, now) for share, _ in wanted.max_latency)
    low = (speed.throughput.percentile(1.0 - share, now) for share, _ in wanted.min_throughput)
    return any(
        seen is not None and seen > limit for seen, (_, limit) in zip(late, wanted.max_latency, strict=True)
    ) or any(seen is not None and seen < limit for seen, (_, limit) in zip(low, wanted.min_throughput, strict=True))


def check_context(draft: Draft, asked: Asked) -> None:
    """Drop targets that the prompt does not fit into. An estimate alone refuses nobody: if none fits, all are kept."""
    if not asked.tokens:
        return
    fitting = [row for row in draft.rows if (row[0][0].target.context or asked.tokens) >= asked.tokens]
    if fitting:
        draft.keep(fitting, "context", f"the prompt has some {asked.tokens} tokens")


# From targets to candidates

Listed = tuple[list[Candidate], list[str]]


def flatten(draft: Draft, dice: Dice) -> Listed:
    """The candidates in order, each lane once: of every target first the key that the lot falls on."""
    candidates: list[Candidate] = []
    names: list[str] = []
    seen = set()
    for keys, name in draft.rows:
        for candidate in keys if len(keys) == 1 else rotated(keys, dice):
            if candidate.lane not in seen:
                seen.add(candidate.lane)
                candidates.append(candidate)
                names.append(name)
    return candidates, names


def rotated(keys: Keys, dice: Dice) -> Keys:
    """The keys of a target from one drawn by weight on, around."""
    ticket = dice() * sum(candidate.weight for candidate in keys)
    for index, candidate in enumerate(keys):
        ticket -= candidate.weight
        if ticket < 0:
            return keys[index:] + keys[:index]
    return keys


def stick(
    candidates: list[Candidate], names: list[str], conversation: Conversation, sticky: Sticky, now: float
) -> tuple[list[Candidate], list[str], Candidate | None]:
    """Put the candidate first at which the conversation is at home, with the other keys of its target behind it."""
    lane = sticky.find(conversation.name, now)
    stuck = next((candidate for candidate in candidates if candidate.lane == lane), None)
    if stuck is None:
        return candidates, names, None
    ranks = [0 if candidate is stuck else 1 if candidate.target is stuck.target else 2 for candidate in candidates]
    places = sorted(range(len(candidates)), key=ranks.__getitem__)
    return [candidates[place] for place in places], [names[place] for place in places], stuck


def pin(draft: Draft, candidates: list[Candidate], names: list[str], *, strict: bool) -> Listed:
    """Results of tool calls go to the first candidate's target alone, under the strict rule to that candidate alone."""
    first = candidates[0]
    kept = [first] if strict else [candidate for candidate in candidates if candidate.target is first.target]
    reason, detail = ("strict_tool_pinning", "") if strict else ("tool_results", f"the calls are {first!r}'s")
    draft.dropped += [Dropped(candidate, reason, detail) for candidate in candidates if candidate not in kept]
    return kept, [name for candidate, name in zip(candidates, names, strict=True) if candidate in kept]


def without_open(
    draft: Draft, candidates: list[Candidate], names: list[str], now: float
) -> tuple[list[Candidate], list[str], bool]:
    """Drop those whose breaker is open, unless all are: the last one is never dropped. True: none is obeyed."""
    if not candidates:
        return candidates, names, False
    passes, forced = passing([candidate.breaker for candidate in candidates], now)
    if forced:
        places = sorted(range(len(candidates)), key=lambda place: candidates[place].breaker.until)
        return [candidates[place] for place in places], [names[place] for place in places], True
    draft.dropped += [
        Dropped(candidate, "breaker" if candidate.breaker.is_open else "limited", rest_in_words(candidate, now))
        for candidate, may in zip(candidates, passes, strict=True)
        if not may
    ]
    kept = [candidate for candidate, may in zip(candidates, passes, strict=True) if may]
    return kept, [name for name, may in zip(names, passes, strict=True) if may], len(candidates) == 1


def rest_in_words(candidate: Candidate, now: float) -> str:
    """How long a breaker goes on refusing."""
    left = candidate.breaker.until - now
    return f"for another {left:.0f} s" if left > 0 else "a probe is under way"


def refusal(nobody: Plan) -> Refusal:
    """What a caller is told when no target fits the request. A breaker is never the reason."""
    reasons = {dropped.reason for dropped in nobody.dropped}
    field = "messages" if reasons == {"modality"} else "model" if reasons <= {"free", "reasoning"} else "provider"
    whys = dict.fromkeys(
        f"{dropped.candidate.target.provider}: {dropped.detail or dropped.reason}" for dropped in nobody.dropped
    )
    said = "; ".join(whys) or "the chain is empty"
    return Refusal("INVALID_REQUEST", f"No upstream of this model fits the request: {said}.", param=field)
