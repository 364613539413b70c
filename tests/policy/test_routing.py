"""The planner's rules one by one, and what holds of every plan."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.policy.chains import Candidate, Chain, Plan, Strategy, Target, expand
from waypost.policy.health import Health
from waypost.policy.preferences import Preferences
from waypost.policy.routing import ANYTHING, Asked, eligible, plan, refusal
from waypost.policy.stickiness import Conversation

NOW = 1000.0
PLAIN_TALK = b'[{"role":"user","content":"hi"}]'
TOOL_TALK = b'[{"role":"user","content":"hi"},{"role":"tool","tool_call_id":"c","content":"7"}]'


def conversation(messages: bytes = PLAIN_TALK) -> Conversation:
    return Conversation("a1", {"messages": messages})


def chain(*targets: Target | str, health: Health | None = None, name: str = "m", **options: Any) -> Chain:
    made = [Target(target, "model") if isinstance(target, str) else target for target in targets]
    return Chain(name, made, health or Health(), **options)


def planned(
    subject: Chain, talk: Conversation | None = None, seed: int = 0, models: Sequence[Chain] = (), **wanted: Any
) -> Plan:
    asked = Asked(Preferences(**wanted), models=tuple(models)) if wanted or models else ANYTHING
    return plan(subject, asked, talk or conversation(), NOW, random.Random(seed).random)


def providers(found: Plan) -> str:
    return "".join(candidate.target.provider for candidate in found.candidates)


def reasons(found: Plan) -> dict[str, str]:
    return {dropped.candidate.target.provider: dropped.reason for dropped in found.dropped}


def open_breaker(candidate: Candidate, now: float = NOW) -> None:
    for _ in range(5):
        candidate.breaker.failed(candidate.breaker.admit(now), now)


# The chain's own strategy


def test_an_ordered_chain_is_its_own_plan() -> None:
    subject = chain("a", "b", "c")
    assert planned(subject) is subject.plain and providers(planned(subject)) == "abc"


def test_weighted_follows_the_weights() -> None:
    subject = chain(
        Target("a", "m", weight=3), Target("b", "m", weight=1), Target("c", "m", weight=0), strategy="weighted"
    )
    dice = random.Random(1).random
    plans = [providers(plan(subject, ANYTHING, conversation(), NOW, dice)) for _ in range(4000)]
    firsts = Counter(found[0] for found in plans)
    assert 2850 < firsts["a"] < 3150 and firsts["c"] == 0
    assert {found[2] for found in plans} == {"c"}, "without a weight only when nobody else is left"


def test_keys_follow_their_weights_and_stand_behind_each_other() -> None:
    subject = chain(Target("a", "m", keys=(("1", 1.0), ("2", 3.0))), "b")
    dice = random.Random(1).random
    plans = [[c.lane[:2] for c in plan(subject, ANYTHING, conversation(), NOW, dice).candidates] for _ in range(2000)]
    assert all(sorted(found[:2]) == [("a", "1"), ("a", "2")] and found[2] == ("b", "1") for found in plans)
    assert 1400 < sum(found[0][1] == "2" for found in plans) < 1600


def test_price_puts_the_cheapest_first_and_the_unknown_last() -> None:
    subject = chain(
        "a", Target("b", "m", prices=(200, 400, 0)), Target("c", "m", prices=(100, 500, 0)), strategy="price"
    )
    assert providers(planned(subject)) == "cba"


def test_latency_prefers_the_faster_of_two_and_never_the_slowest_of_all() -> None:
    subject = chain("a", "b", "c", strategy="latency")
    for keys, seconds in zip(subject.targets, (0.1, 0.5, 2.0), strict=True):
        keys[0].speed.note_first_token(seconds, NOW)
    dice = random.Random(1).random
    firsts = Counter(providers(plan(subject, ANYTHING, conversation(), NOW, dice))[0] for _ in range(3000))
    assert firsts["c"] == 0 and 1800 < firsts["a"] < 2200, "two of three pairs have the fastest in them"
    subject.targets[0][0].speed.active = 20
    assert providers(planned(subject))[0] != "a", "who waits there counts too"


def test_latency_gives_the_slow_another_chance_after_a_while() -> None:
    subject = chain("a", "b", strategy="latency")
    slow, fast = subject.targets[0][0].speed, subject.targets[1][0].speed
    slow.note_first_token(5.0, NOW)
    for minute in range(120):
        now = NOW + 60 * minute
        fast.note_first_token(1.0, now)
        if providers(plan(subject, ANYTHING, conversation(), now, random.Random(0).random)) == "ab":
            break
    assert 1 < minute < 30


# Breakers


def test_open_breakers_are_left_out_with_the_reason() -> None:
    subject = chain("a", "b", "c")
    open_breaker(subject.targets[0][0])
    found = planned(subject)
    assert providers(found) == "bc" and reasons(found) == {"a": "breaker"} and not found.forced
    assert found.home is subject.targets[0][0]


def test_when_all_are_open_nobody_is_left_out_the_soonest_first() -> None:
    subject = chain("a", "b")
    open_breaker(subject.targets[0][0], NOW)
    open_breaker(subject.targets[1][0], NOW - 10)
    found = planned(subject)
    assert providers(found) == "ba" and found.forced and not found.dropped


def test_a_single_target_is_always_asked() -> None:
    subject = chain("a")
    open_breaker(subject.targets[0][0])
    assert providers(planned(subject)) == "a" and planned(subject).forced


def test_a_limit_is_named_as_one() -> None:
    subject = chain("a", "b")
    breaker = subject.targets[0][0].breaker
    breaker.failed(breaker.admit(NOW), NOW, "limit", 30.0)
    found = planned(subject)
    assert reasons(found) == {"a": "limited"} and "30 s" in found.dropped[0].detail


# The caller's preferences


@pytest.mark.parametrize(
    ("wanted", "expected", "dropped"),
    [
        ({"order": ("c", "a")}, "cab", {}),
        ({"order": ("c/model",)}, "cab", {}),
        ({"order": ("x",)}, "abc", {}),
        ({"order": ("c", "a"), "allow_fallbacks": False}, "ca", {"b": "no_fallbacks"}),
        ({"allow_fallbacks": False}, "a", {"b": "no_fallbacks", "c": "no_fallbacks"}),
        ({"only": frozenset("bc")}, "bc", {"a": "only"}),
        ({"ignore": frozenset("a")}, "bc", {"a": "ignore"}),
        ({"ignore": frozenset({"a/model"})}, "bc", {"a": "ignore"}),
        ({"only": frozenset("ab"), "ignore": frozenset("a")}, "b", {"a": "ignore", "c": "only"}),
        ({"deny_data_collection": True}, "c", {"a": "data_collection", "b": "data_collection"}),
        ({"require_parameters": True}, "bc", {"a": "parameters"}),
        ({"max_price": (None, 3, None)}, "b", {"a": "max_price", "c": "max_price"}),
        ({"max_price": (1, None, None)}, "ab", {"c": "max_price"}),
        ({"sort": "price"}, "bac", {}),
        ({"free": True}, "", {"a": "free", "b": "free", "c": "free"}),
    ],
)
def test_preferences(wanted: dict[str, Any], expected: str, dropped: dict[str, str]) -> None:
    subject = chain(
        Target("a", "model", prices=(1, 9, 0), parameters=frozenset({"tools"})),
        Target("b", "model", prices=(1, 3, 0)),
        Target("c", "model", keeps_data=False),
    )
    asked = Asked(Preferences(**wanted), parameters=frozenset({"tools", "seed"}))
    found = plan(subject, asked, conversation(), NOW, random.Random(0).random)
    assert providers(found) == expected and reasons(found) == dropped


def test_thresholds_only_put_the_slow_behind() -> None:
    subject, other = chain("a", "b"), chain("c", name="other")
    for candidate, seconds, rate in ((subject.targets[0][0], 3.0, 100), (subject.targets[1][0], 1.0, 10)):
        for number in range(-10, 0):
            candidate.speed.note_first_token(seconds, NOW + number)
            candidate.speed.note_throughput(rate, 1.0, NOW)
    assert providers(planned(subject, max_latency=((0.5, 2.0),))) == "ba"
    assert providers(planned(subject, min_throughput=((0.5, 50.0),))) == "ab"
    assert providers(planned(subject, models=[other], max_latency=((0.5, 2.0),))) == "bca", (
        "another model may be faster"
    )
    assert providers(planned(subject, sort="throughput")) == "ab"
    assert providers(planned(subject, sort="latency")) == "ba"


def test_fallback_models_the_callers_and_the_operators() -> None:
    health = Health()
    second = chain("b", "a", health=health, name="second")
    first = chain("a", health=health, name="first", fallbacks=[second])
    own = chain(Target("c", "m", prices=(1, 1, 0)), health=health, name="own")
    found = planned(first, models=[own])
    assert providers(found) == "acb" and found.names == ("first", "own", "second") and found.elsewhere == {"own"}
    assert providers(planned(first, models=[own], allow_fallbacks=False)) == "ac"
    assert providers(planned(first, models=[own], sort="price", across_models=True)) == "cab"
    assert providers(planned(first)) == "ab" and first.plain is not None, "each lane once"


def test_circles_of_fallbacks_end() -> None:
    assert expand("a", {"a": ["b", "c"], "b": ["d", "a"], "d": ["c"]}) == ["a", "b", "d", "c"]


def test_nobody_fits() -> None:
    subject = chain("a", Target("b", "m", modalities=frozenset({"image"})))
    refused = refusal(planned(subject, only=frozenset("x")))
    assert refused.status == 400 and refused.param == "provider" and "a: not in provider.only" in refused.message
    heard = Asked(modalities=frozenset({"audio"}))
    deaf = chain(Target("b", "m", modalities=frozenset({"image"})))
    refused = refusal(plan(deaf, heard, conversation(), NOW, random.Random(0).random))
    assert refused.param == "messages" and "takes no audio" in refused.message


def test_the_context_drops_only_where_another_fits() -> None:
    subject = chain(Target("a", "m", context=1000), Target("b", "m", context=9000), Target("c", "m"))
    dice = random.Random(0).random
    assert providers(plan(subject, Asked(tokens=500), conversation(), NOW, dice)) == "abc"
    found = plan(subject, Asked(tokens=5000), conversation(), NOW, dice)
    assert providers(found) == "bc" and reasons(found) == {"a": "context"}
    small = chain(Target("a", "m", context=1000))
    assert providers(plan(small, Asked(tokens=5000), conversation(), NOW, dice)) == "a", "an estimate refuses nobody"


# Stickiness


def test_a_conversation_goes_where_it_is_at_home() -> None:
    subject = chain("a", Target("b", "model", keys=(("1", 1.0), ("2", 1.0))), "c")
    subject.sticky.keep(conversation().name, ("b", "2", "model"), NOW)
    found = planned(subject)
    assert [c.lane[:2] for c in found.candidates] == [("b", "2"), ("b", "1"), ("a", "1"), ("c", "1")]
    assert found.sticky and found.home is subject.targets[0][0]
    assert not planned(subject, Conversation("a2", {"messages": PLAIN_TALK})).sticky
    assert providers(planned(subject, order=("c",))) == "cabb", "the caller's order wins"
    assert providers(planned(subject, sort="price"))[0] == "b"
    open_breaker(subject.targets[1][1])
    assert providers(planned(subject)) == "bac" and not planned(subject).sticky


def test_tool_results_stay_where_the_format_cannot_move() -> None:
    subject = chain("a", Target("g", "model", moves_tools=False))
    assert subject.plain is None
    talk = conversation(TOOL_TALK)
    assert providers(planned(subject, talk)) == "ag", "whoever made the calls is not known"
    subject.sticky.keep(talk.name, ("g", "1", "model"), NOW)
    found = planned(subject, talk)
    assert providers(found) == "g" and reasons(found) == {"a": "tool_results"} and not found.attempts
    assert providers(planned(subject, conversation())) == "ga", "only results of tools are bound"
    open_breaker(subject.targets[1][0])
    assert providers(planned(subject, talk)) == "g" and planned(subject, talk).forced
    moving = chain("a", "b")
    moving.sticky.keep(talk.name, ("b", "1", "model"), NOW)
    assert providers(planned(moving, talk)) == "ba"


def test_strict_tool_pinning_is_one_upstream_once() -> None:
    subject = chain("a", "b", strict=True)
    found = planned(subject, conversation(TOOL_TALK))
    assert providers(found) == "a" and found.attempts == 1 and reasons(found) == {"b": "strict_tool_pinning"}
    assert providers(planned(subject)) == "ab" and planned(subject).attempts == 0


# What holds of every plan

TARGETS = st.builds(
    Target,
    st.sampled_from("abcd"),
    st.sampled_from(["m", "n"]),
    keys=st.sampled_from([(("1", 1.0),), (("1", 1.0), ("2", 2.0))]),
    weight=st.sampled_from([0.0, 1.0, 3.0]),
    prices=st.none() | st.tuples(*[st.integers(0, 3)] * 3),
    context=st.none() | st.integers(1, 9),
    modalities=st.none() | st.frozensets(st.sampled_from(["image", "audio"])),
    keeps_data=st.booleans(),
    moves_tools=st.booleans(),
)
NAMES = st.frozensets(st.sampled_from(["a", "b", "a/m", "x"]), max_size=2)
PREFERENCES = st.builds(
    Preferences,
    order=NAMES.map(lambda names: tuple(sorted(names))),
    only=NAMES,
    ignore=NAMES,
    allow_fallbacks=st.booleans(),
    deny_data_collection=st.booleans(),
    sort=st.sampled_from([None, "price", "latency", "throughput"]),
    across_models=st.booleans(),
    max_price=st.tuples(*[st.none() | st.integers(0, 3)] * 3),
    max_latency=st.sampled_from([(), ((0.5, 1.0),)]),
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_every_plan(data: st.DataObject) -> None:
    health = Health()
    strategies: Any = st.sampled_from(["ordered", "weighted", "latency", "price"])
    chosen: list[Strategy] = [data.draw(strategies) for _ in range(3)]
    distinct = st.lists(TARGETS, min_size=1, max_size=4, unique_by=lambda target: (target.provider, target.model))
    fallback = Chain("fallback", data.draw(distinct), health, strategy=chosen[0])
    named = Chain("named", data.draw(distinct), health, strategy=chosen[1])
    strict = data.draw(st.booleans())
    subject = Chain("m", data.draw(distinct), health, strategy=chosen[2], fallbacks=[fallback], strict=strict)
    everyone = [c for link in (subject, fallback, named) for keys in link.targets for c in keys]
    for candidate in everyone:
        if data.draw(st.integers(0, 3)) == 0:
            open_breaker(candidate)
    asked = data.draw(
        st.just(ANYTHING)
        | st.builds(
            Asked,
            PREFERENCES,
            tokens=st.integers(0, 9),
            modalities=st.frozensets(st.just("image")),
            models=st.sampled_from([(), (named,)]),
        )
    )
    talk = conversation(data.draw(st.sampled_from([PLAIN_TALK, TOOL_TALK])))
    if data.draw(st.booleans()):
        subject.sticky.keep(talk.name, data.draw(st.sampled_from(everyone)).lane, NOW)
    before = [c.breaker.state for c in everyone], len(subject.sticky)
    seed = data.draw(st.integers(0, 99))
    found = plan(subject, asked, talk, NOW, random.Random(seed).random)
    again = plan(subject, asked, talk, NOW, random.Random(seed).random)

    assert found.candidates == again.candidates, "the same dice, the same plan"
    assert ([c.breaker.state for c in everyone], len(subject.sticky)) == before, "planning changes nothing"
    lanes = [candidate.lane for candidate in found.candidates]
    assert len(lanes) == len(set(lanes)) == len(found.names)
    assert not {id(candidate) for candidate in found.candidates} & {id(drop.candidate) for drop in found.dropped}
    wanted = asked.preferences
    assert set(found.candidates) <= set(eligible(subject, asked))
    for candidate in found.candidates:
        target = candidate.target
        both = {target.provider, f"{target.provider}/{target.model}"}
        assert not both & wanted.ignore and (not wanted.only or both & wanted.only)
        assert not (wanted.deny_data_collection and target.keeps_data)
        assert target.modalities is None or asked.modalities <= target.modalities
        for limit, price in zip(wanted.max_price, target.prices or (99, 99, 99), strict=True):
            assert limit is None or price <= limit
        assert found.forced or not candidate.breaker.blocks(NOW)
    if not found.candidates:
        assert not {drop.reason for drop in found.dropped} & {"breaker", "limited", "context"}, "never the reason"
        assert refusal(found).status == 400
    # Nobody disappears without a word, but for models that were not to be used and lanes that stand twice.
    of_chain = {c.lane for keys in subject.targets for c in keys}
    assert of_chain <= set(lanes) | {drop.candidate.lane for drop in found.dropped}
