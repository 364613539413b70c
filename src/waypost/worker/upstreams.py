"""The snapshot a worker serves from: every model's chain of upstreams, ready to be called."""

from __future__ import annotations

import itertools
import urllib.parse
from collections.abc import Mapping

import msgspec

from waypost import __version__, config, providers
from waypost.http.pool import Names, Pool, Target
from waypost.http.proxy import proxy_for
from waypost.http.timers import Deadlines
from waypost.messages import Identity
from waypost.pricing import Price

IDLE_SECONDS = 4.0  # below the 5 s after which common servers close an unused connection
REMEMBERED = 10_000  # answers to "does this plan include this model?"
Admission = tuple[str, str, tuple[str, ...] | None, str]  # kind of key, its plan, its own patterns, and the model
IMPROMPTU = 1000  # chains kept for names that stand in no configuration: `provider/model`, native ids


class Upstream:
    """One link of a chain: a provider's model, with everything but the body already rendered."""

    __slots__ = (
        "_heads",
        "header",
        "model",
        "model_field",
        "name",
        "patience",
        "pool",
        "price",
        "provider",
        "secrets",
        "timeouts",
    )

    def __init__(self, provider: str, model: str, settings: config.Provider, secrets: list[str], pool: Pool) -> None:
        self.provider = provider
        self.name = msgspec.Raw(msgspec.json.encode(provider))
        self.price: Price | None = None  # `Prices.attach` finds it before the first request
        self.header = b"x-provider: %b\r\n" % provider.encode()
        self.model = model
        self.model_field = msgspec.Raw(msgspec.json.encode(model))
        self.timeouts = timeouts = settings.timeouts
        self.patience = min(timeouts.first_byte, timeouts.idle, timeouts.total)  # the nearest of an attempt's limits
        self.pool = pool
        self.secrets = secrets  # so that no answer of theirs can carry one on
        url = urllib.parse.urlsplit(base_url(provider, settings) + "/chat/completions")
        self._heads = itertools.cycle([(render_head(url, key, False), render_head(url, key, True)) for key in secrets])

    def render(self, body: bytes, stream: bool) -> bytes:
        """One whole request; several keys take turns."""
        return b"%b%d\r\n\r\n%b" % (next(self._heads)[stream], len(body), body)

    def redact(self, text: str) -> str:
        """An upstream's words without our keys."""
        for secret in self.secrets:
            text = text.replace(secret, "…")
        return text


def render_head(url: urllib.parse.SplitResult, key: str, stream: bool) -> bytes:
    """A request head up to the value of Content-Length."""
    lines = (
        f"POST {url.path} HTTP/1.1",
        f"host: {url.netloc}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"accept: {'text/event-stream' if stream else 'application/json'}",
        "accept-encoding: identity",
        f"user-agent: waypost/{__version__}",
        "content-length: ",
    )
    return "\r\n".join(lines).encode("ascii")


def base_url(name: str, settings: config.Provider) -> str:
    """Where a provider lives, without a slash at the end."""
    return (settings.base_url or providers.BY_NAME[name].base_url).rstrip("/")


def listed_providers(settings: config.Config) -> tuple[str, ...]:
    """The providers whose models the price list knows: they stand in it, and are at their own address."""
    return tuple(
        name
        for name, provider in settings.providers.items()
        if name in providers.BY_NAME
        and providers.BY_NAME[name].listed is not None
        and base_url(name, provider) == providers.BY_NAME[name].base_url
    )


class Snapshot:
    """One configuration, compiled. Requests in flight keep the one they began with."""

    def __init__(
        self, settings: config.Config, pools: Mapping[Target, Pool], deadlines: Deadlines, names: Names
    ) -> None:
        """`pools` are an older snapshot's: connections to the same targets are kept. Raises config.ConfigError."""
        self.settings = settings
        self.pools: dict[Target, Pool] = {}
        self._secrets: dict[str, list[str]] = {}
        self._targets: dict[str, Target] = {}
        for name, provider in settings.providers.items():
            target = self._targets[name] = find_target(name, provider)
            if target not in self.pools:
                try:
                    self.pools[target] = pools.get(target) or Pool(target, deadlines, names)
                except OSError as error:
                    raise config.ConfigError(f"[providers.{name}] ca: {provider.ca}: {error}") from None
            self._secrets[name] = [key.reveal() for key in provider.keys]
        self._chains = {
            name: [self._upstream(*link.split("/", 1)) for link in model.chain]
            for name, model in settings.models.items()
        }
        for bare, links in bare_ids(settings).items():
            self._chains[bare] = [self._upstream(*link.split("/", 1)) for link in links]
        self._impromptu: dict[str, list[Upstream]] = {}
        self.listed = listed_providers(settings)
        self._allowed: dict[tuple[str, str], bool] = {}
        self.admitted: dict[Admission, list[Upstream]] = {}

    def _upstream(self, provider: str, model: str) -> Upstream:
        settings = self.settings.providers[provider]
        return Upstream(provider, model, settings, self._secrets[provider], self.pools[self._targets[provider]])

    def chain(self, model: str) -> list[Upstream] | None:
        """The upstreams for a model's name, in order; None where nothing serves it."""
        found = self._chains.get(model) or self._impromptu.get(model)
        if found is not None:
            return found
        provider, slash, upstream_model = model.partition("/")
        if not slash or not upstream_model or provider not in self.settings.providers:
            return None
        return self.add_chain(model, [(provider, upstream_model)])

    def add_chain(self, model: str, links: list[tuple[str, str]]) -> list[Upstream]:
        """Keep, for a while, the chain of a name that is not configured: pairs of provider and upstream model id."""
        if len(self._impromptu) >= IMPROMPTU:
            self._impromptu.clear()
        chain = self._impromptu[model] = [self._upstream(*link) for link in links]
        return chain

    def remember(self, identity: Identity, model: str, chain: list[Upstream]) -> list[Upstream]:
        """Keep in `admitted` that such a key on this plan may have this model."""
        if len(self.admitted) >= REMEMBERED:
            self.admitted.clear()
        self.admitted[identity.kind, identity.plan, identity.models, model] = chain
        return chain

    def allows(self, plan: str, model: str) -> bool:
        """Does a plan include a model? A plan that is no longer configured includes none."""
        asked = (plan, model)
        answer = self._allowed.get(asked)
        if answer is None:
            if len(self._allowed) >= REMEMBERED:
                self._allowed.clear()
            settings = self.settings.plans.get(plan)
            answer = self._allowed[asked] = settings is not None and settings.allows(model)
        return answer


def bare_ids(settings: config.Config) -> dict[str, list[str]]:
    """Native ids that some chain uses: a caller may name them directly, and gets every provider that serves them."""
    found: dict[str, list[str]] = {}
    for model in settings.models.values():
        for link in model.chain:
            bare = link.split("/", 1)[1]
            if bare not in settings.models and link not in found.setdefault(bare, []):
                found[bare].append(link)
    return {bare: links for bare, links in found.items() if links}


def find_target(name: str, settings: config.Provider) -> Target:
    """Where a provider's connections go. Raises config.ConfigError."""
    url = urllib.parse.urlsplit(base_url(name, settings))
    host, tls = url.hostname or "", url.scheme == "https"
    port = url.port or (443 if tls else 80)
    try:
        proxy = proxy_for(url.scheme, host, port) if tls and not settings.socket else None
    except ValueError as error:
        raise config.ConfigError(f"[providers.{name}] {error}") from None
    known = providers.BY_NAME.get(name)
    idle = settings.idle or (known.idle if known is not None and not settings.base_url else IDLE_SECONDS)
    return Target(
        host,
        port,
        tls=tls,
        ca=settings.ca or None,
        unix=settings.socket or None,
        proxy=proxy,
        idle_seconds=idle,
        connections=settings.connections,
    )
