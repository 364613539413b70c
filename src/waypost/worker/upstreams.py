"""The snapshot a worker serves from: what each model's name stands for, and upstreams ready to be called."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from waypost import __version__, config, provider_settings, providers
from waypost.formats import vertex
from waypost.formats.openai_chat import parse_error
from waypost.http.pool import Names, Pool, Target
from waypost.http.proxy import proxy_for
from waypost.http.timers import Deadlines
from waypost.messages import Identity
from waypost.policy.chains import Candidate
from waypost.policy.health import Health
from waypost.pricing import Price
from waypost.worker.dialect import Complaint, Dialect, Speech, is_plain

if TYPE_CHECKING:
    from waypost.worker.resolve import Resolved, Route

IDLE_SECONDS = 4.0  # below the 5 s after which common servers close an unused connection
REMEMBERED = 10_000  # answers to "does this plan include this model?"
Admission = tuple[str, str, tuple[str, ...] | None, str]  # kind of key, its plan, its own patterns, and the model
IMPROMPTU = 1000  # names kept that stand in no configuration: `provider/model`, native ids
PLACED = frozenset(row.name for row in providers.PLACED)
Links = list[tuple[str, str]]  # provider, and its own model id


class Upstream:
    """What one attempt goes to: a provider's model with one of its keys, everything but the body already rendered."""

    __slots__ = (
        "_head",
        "_stream_head",
        "credential",
        "dialect",
        "first_header",
        "header",
        "model",
        "model_field",
        "name",
        "patience",
        "pool",
        "price",
        "provider",
        "speech",
        "timeouts",
    )

    def __init__(
        self,
        provider: str,
        model: str,
        settings: config.Provider,
        speech: Speech,
        key: int,
        own: config.Model | None,
        pool: Pool,
        price: Price | None = None,
    ) -> None:
        """`key` counts the provider's keys from 1; `own`: the settings of the configured model whose link this is."""
        self.provider = provider
        self.name = msgspec.Raw(msgspec.json.encode(provider))
        self.price = price
        self.header = b"x-provider: %b\r\n" % provider.encode()
        self.first_header = self.header + b"x-attempts: 1\r\n"
        self.model = model
        self.model_field = msgspec.Raw(msgspec.json.encode(model))
        self.timeouts = timeouts = settings.timeouts
        self.patience = min(timeouts.first_byte, timeouts.idle, timeouts.total)  # the nearest of an attempt's limits
        self.pool = pool
        self.speech = speech
        self.credential = speech.credentials[key - 1]
        # None: OpenAI's format as it stands, whose heads can be made beforehand.
        self.dialect = None if is_plain(speech, model, own) else Dialect(speech, self.credential, model, own)
        if speech.kind in ("openai", "azure"):
            url = urllib.parse.urlsplit(base_url(provider, settings) + openai_path(speech, model, "/chat/completions"))
            secret = settings.keys[key - 1].reveal()
            key_line = f"api-key: {secret}" if speech.kind == "azure" else f"authorization: Bearer {secret}"
            self._head = render_head(url, key_line, False)
            self._stream_head = render_head(url, key_line, True)

    def render(self, body: bytes, stream: bool) -> bytes:
        """One whole request."""
        return b"%b%d\r\n\r\n%b" % (self._stream_head if stream else self._head, len(body), body)

    def redact(self, text: str) -> str:
        """An upstream's words without our key."""
        for secret in self.credential.secrets():
            text = text.replace(secret, "…")
        return text


def openai_path(speech: Speech, model: str, path: str) -> str:
    """What stands behind the base URL: at Azure the deployment with its version, or Azure's own v1."""
    if speech.kind != "azure":
        return path
    if not speech.api_version:
        return path if speech.path.endswith("/v1") else f"/v1{path}"
    deployment = urllib.parse.quote(model, safe="")
    return f"/deployments/{deployment}{path}?api-version={urllib.parse.quote(speech.api_version)}"


def read_error(upstream: Upstream, status: int, head: bytes, body: bytes) -> Complaint:
    """A status that is not 200, with its head in lower case."""
    dialect = upstream.dialect
    return Complaint(status, *parse_error(body)) if dialect is None else dialect.read_error(status, head, body)


def render_head(url: urllib.parse.SplitResult, key_line: str, stream: bool) -> bytes:
    """A request head up to the value of Content-Length."""
    lines = (
        f"POST {url.path}{'?' if url.query else ''}{url.query} HTTP/1.1",
        f"host: {url.netloc}",
        key_line,
        "content-type: application/json",
        f"accept: {'text/event-stream' if stream else 'application/json'}",
        "accept-encoding: identity",
        f"user-agent: waypost/{__version__}",
        "content-length: ",
    )
    return "\r\n".join(lines).encode("ascii")


def base_url(name: str, settings: config.Provider) -> str:
    """Where a provider lives, without a slash at the end."""
    url = settings.base_url
    if not url and provider_settings.kind_of(name, settings) == "vertex":
        url = vertex.base_url(settings.location)
    return (url or provider_settings.default_base_url(name, settings)).rstrip("/")


def priced_providers(settings: config.Config) -> tuple[str, ...]:
    """The providers whose prices the list knows: they stand in it, and are at their own address."""
    return tuple(
        name
        for name, provider in settings.providers.items()
        if name in providers.BY_NAME and providers.BY_NAME[name].listed is not None and is_at_home(name, provider)
    )


def listed_providers(settings: config.Config) -> tuple[str, ...]:
    """Those of them where a model's own id is enough; where each customer has his own, the list's may be none."""
    return tuple(name for name in priced_providers(settings) if name not in PLACED)


def is_at_home(name: str, settings: config.Provider) -> bool:
    """Is it the provider that it is called, and no other server that speaks like it?"""
    url = settings.base_url.rstrip("/")
    if name == "azure":  # every customer has an address of its own
        return (urllib.parse.urlsplit(url).hostname or "").endswith(provider_settings.AZURE_HOSTS)
    return url in ("", provider_settings.default_base_url(name, settings))


class Snapshot:
    """One configuration, compiled. Requests in flight keep the one they began with."""

    def __init__(
        self, settings: config.Config, pools: Mapping[Target, Pool], deadlines: Deadlines, names: Names, health: Health
    ) -> None:
        """`pools` are an older snapshot's: connections to the same targets are kept. Raises config.ConfigError."""
        self.settings = settings
        self.health = health
        self.pools: dict[Target, Pool] = {}
        self._speeches: dict[str, Speech] = {}
        self._targets: dict[str, Target] = {}
        for name, provider in settings.providers.items():
            target = self._targets[name] = find_target(name, provider)
            if target not in self.pools:
                try:
                    self.pools[target] = pools.get(target) or Pool(target, deadlines, names)
                except OSError as error:
                    raise config.ConfigError(f"[providers.{name}] ca: {provider.ca}: {error}") from None
            self._speeches[name] = Speech(name, provider, base_url(name, provider), deadlines, names)
        self._links: dict[str, Links] = {
            name: [split_link(link) for link in model.chain] for name, model in settings.models.items()
        }
        for bare, links in bare_ids(settings).items():
            self._links[bare] = [split_link(link) for link in links]
        self._impromptu: dict[str, Links] = {}
        self.caching = any(plan.cache is not None and plan.cache.enabled for plan in settings.plans.values())
        self.priced = priced_providers(settings)
        self.listed = listed_providers(settings)
        self._allowed: dict[tuple[str, str], bool] = {}
        self.routes: dict[str, Route] = {}
        self.admitted: dict[Admission, Resolved] = {}

    def links(self, model: str) -> Links | None:
        """The links of a model's chain as (provider, upstream model id), in order; None where nothing serves it."""
        found = self._links.get(model) or self._impromptu.get(model)
        if found is not None:
            return found
        provider, slash, upstream_model = model.partition("/")
        if not slash or not upstream_model or provider not in self.settings.providers:
            return None
        return [(provider, upstream_model)]

    def is_named(self, model: str) -> bool:
        """Does the configuration have this very name, whatever else it could be read as?"""
        provider, _, upstream_model = model.partition("/")
        return model in self._links or (provider, upstream_model) in self._links.get(upstream_model, ())

    def add_links(self, model: str, links: Links) -> Links:
        """Keep, for a while, the chain of a name that is not configured."""
        self._make_room()
        self._impromptu[model] = links
        return links

    def upstream(self, candidate: Candidate, own: config.Model | None, price: Price | None) -> Upstream:
        """What carries an attempt to a candidate; `own`: the settings of the configured model that it serves."""
        provider, key, model = candidate.lane
        settings, pool = self.settings.providers[provider], self.pools[self._targets[provider]]
        return Upstream(provider, model, settings, self._speeches[provider], int(key), own, pool, price)

    def add_route(self, route: Route) -> Route:
        """Keep a route, until the prices are looked at again."""
        self._make_room()
        self.routes[route.chain.name] = route
        return route

    def reprice(self) -> None:
        """Prices may have changed: all routes are made anew when they are next asked for."""
        self.admitted.clear()
        self.routes.clear()

    def forget_listed(self) -> None:
        """There is another price list: who serves a native id, and at what price, may have changed."""
        self._impromptu.clear()
        self.reprice()

    def _make_room(self) -> None:
        """Callers may invent names (`provider/anything`): what is kept of them is bounded, their health too."""
        if len(self._impromptu) >= IMPROMPTU or len(self.routes) >= len(self._links) + IMPROMPTU:
            self._impromptu.clear()
            self.reprice()
            known = {link for links in self._links.values() for link in links}
            self.health.retain([lane for lane in self.health.breakers if (lane[0], lane[2]) in known], self._links)

    def remember(self, identity: Identity, model: str, resolved: Resolved) -> Resolved:
        """Keep in `admitted` that such a key on this plan may have this model."""
        if len(self.admitted) >= REMEMBERED:
            self.admitted.clear()
        self.admitted[identity.kind, identity.plan, identity.models, model] = resolved
        return resolved

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

    def inherit(self, old: Snapshot) -> None:
        """Take over the health of an older configuration, but for providers that are not what they were."""
        same = {
            name for name, provider in self.settings.providers.items() if old.settings.providers.get(name) == provider
        }
        lanes = [lane for lane in self.health.breakers if lane[0] in same]
        self.health.retain(lanes, [name for name in self.health.homes if self.links(name) is not None])


def split_link(link: str) -> tuple[str, str]:
    """`provider/upstream model id`, which may have slashes of its own."""
    provider, _, model = link.partition("/")
    return provider, model


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
