"""`waypost.toml` → frozen structs. Every error names the file, the table and the key, and says what would be right."""

from __future__ import annotations

import os
import pathlib
import re
import tomllib
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from waypost import provider_settings, providers
from waypost.addresses import is_base_url, is_jwks, is_store
from waypost.capabilities import Capabilities
from waypost.secret import Pem, Secret, read_pem, read_secret

Positive = Annotated[int, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]  # a day at most: TOML has inf, which no clock reaches
Weight = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
Dollars = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
Window = Literal["minute", "hour", "day", "month"]
Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
T = TypeVar("T")


JOURNAL_LEAST = 64 << 20
"""Bytes that `store.journal_max` must allow: a few segments of a few workers."""


METRICS_TOKEN = 16
"""Characters that a token for `/metrics` has at least."""


class ConfigError(Exception):
    """The configuration cannot be used; the message says where and why."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file: what is not a setting is an error."""


class TLS(Table, frozen=True):
    """`tls = { certificate = "FILE", key = "FILE" }`: PEM files for the listener."""

    certificate: str
    key: str


class Server(Table, frozen=True):
    """`[server]`."""

    listen: str = "127.0.0.1:8080"  # HOST:PORT, or unix:PATH
    workers: Count = 0  # 0: one for every core
    error_format: Literal["auto", "text", "json"] = "auto"
    max_body: str = "25MiB"
    cors: tuple[str, ...] = ()  # origins that browsers may call from; "*" for every one
    tls: TLS | None = None
    keepalive: Count = 15  # seconds of silence after which a waiting stream gets a comment; 0: never
    drain: Seconds = 30.0  # seconds that requests in flight may take after SIGTERM
    metrics: Secret = Secret("off")  # who may read /metrics: off, public, or the token that lets one
    log_format: Literal["text", "json"] = "text"
    public_models: str = ""  # a plan whose models anyone may list, without a key


class Store(Table, frozen=True):
    """`[store]`."""

    database: Secret = Secret("sqlite")  # sqlite: in the data folder; or postgresql://USER:PASSWORD@HOST/NAME
    limits: Secret = Secret("database")  # where fast-moving limits live: database, or valkey://[:PASSWORD@]HOST:PORT/N
    limits_on_outage: Literal["closed", "last_lease"] = "closed"  # when the store of limits cannot be asked
    journal_sync: Literal["none", "second", "always"] = "none"  # when journals are forced to the disk
    journal_max: str = "1GiB"  # what each worker's journal may grow to while the books cannot be written
    retention: Count = 90  # days that rows of requests are kept; 0: for good


class Jwt(Table, frozen=True):
    """`[jwt]`: tokens in a key's place. Exactly one of `secret`, `public_key` and `jwks` verifies them."""

    algorithms: tuple[Algorithm, ...] = ("HS256",)
    secret: Secret | None = None
    public_key: Pem | None = None  # a PEM text, as `file:PATH`
    jwks: str = ""  # https://…
    issuer: str = ""  # what `iss` must be; empty: anything
    audience: str = ""  # what `aud` must be or contain; empty: tokens with an `aud` are for others
    account_claim: str = "sub"
    plan_claim: str = ""  # the claim that names the plan; without one, or where a token lacks it, the account's own
    create_accounts: bool = False  # an account is created on its first token, on the token's plan


class Timeouts(Table, frozen=True):
    """Seconds to wait for one attempt at an upstream."""

    connect: Seconds = 5.0
    first_byte: Seconds = 300.0
    idle: Seconds = 60.0  # between two reads of an answer
    total: Seconds = 600.0


class Provider(Table, frozen=True):
    """`[providers.NAME]`. A name that stands in `providers.py` needs only keys."""

    format: Literal["openai", "anthropic", "gemini", "bedrock", "cohere"] | None = None  # of a known name, else openai
    base_url: str = ""
    region: str = ""  # Bedrock's
    project: str = ""  # Vertex AI's; that of the service account where it is left out
    location: str = ""  # Vertex AI's
    api_version: str = ""  # Azure's: deployments in the path; without it the address is its v1
    media: Literal["off", "fetch"] = "off"  # media by URL, where the upstream takes none: fetched here, or refused
    capabilities: Capabilities | None = None
    keys: tuple[Secret, ...] = ()  # in the file: env:NAME, file:PATH, or the secret itself
    weights: tuple[Weight, ...] = ()  # one for each key: how often it is the first to be used; all alike if left out
    context: Positive | None = None  # tokens, of each of its models, where the model's table says nothing
    data_collection: Literal["allow", "deny"] = "allow"  # may it store, or learn from, what it is sent?
    parameters: tuple[str, ...] | None = None  # request fields that it obeys; None: not declared
    timeouts: Timeouts = Timeouts()
    socket: str = ""  # a UNIX socket's path to connect to instead of the host in base_url
    ca: str = ""  # a PEM file of authorities to trust instead of the system's
    idle: Seconds | None = None  # seconds that an unused connection is kept
    connections: Positive = 1000


class Price(Table, frozen=True):
    """USD per million tokens. What is left out costs what `input` or `output` costs; cache writes as with Anthropic."""

    input: Dollars
    output: Dollars
    cache_read: Dollars | None = None
    cache_write_5m: Dollars | None = None  # 1.25 times the input
    cache_write_1h: Dollars | None = None  # twice the input
    reasoning: Dollars | None = None
    audio_input: Dollars | None = None
    audio_output: Dollars | None = None
    image_input: Dollars | None = None
    image_output: Dollars | None = None
    request: Dollars | None = None  # USD for each request


class Routing(Table, frozen=True):
    """`[routing]`: what holds for every chain."""

    attempts: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3  # that a request may make, its first included
    deadline: Seconds = 600.0  # for all attempts of a request together
    client_retries: bool = False  # leave it to SDKs whether to repeat what a whole chain has failed at


class Model(Table, frozen=True):
    """`[models."NAME"]`: the chain of upstreams that answers for a name, each `provider/upstream model id`."""

    chain: tuple[str, ...]
    strategy: Literal["ordered", "weighted", "latency", "price"] = "ordered"
    weights: tuple[Weight, ...] = ()  # one for each link, where the strategy is weighted
    models: tuple[str, ...] = ()  # other configured models that take over, in order, after the whole chain
    larger: bool = False  # a prompt that is too long goes on to a model of `models` with a larger context
    strict_tool_pinning: bool = False  # results of tool calls go to the first upstream alone, once
    history: Literal["off", "fit"] | Positive = "off"  # fit: a long conversation loses its oldest turns; how many stay
    deadline: Seconds | None = None  # instead of `routing.deadline`
    min_throughput: Annotated[float, msgspec.Meta(gt=0, le=10_000)] | None = None  # tokens/s in a stream's first 2 s
    hedge: Seconds | None = None  # of silence after which another link is asked as well; None: never
    price: Price | None = None
    prices: dict[str, Price] = {}  # of single links, by their names, instead of `price`
    context: Positive | None = None  # tokens
    name: str = ""  # what people call it, for lists
    description: str = ""  # the same
    modalities: tuple[str, ...] = ()  # of the input: text, image, audio, file, video
    capabilities: Capabilities | None = None  # of every link's model, before the provider's own
    cache_from: Positive | None = None  # tokens of a prefix from which on it gets cache breakpoints; None: none of ours


class Cache(Table, frozen=True):
    """`[cache]`: answers that are kept for requests which want that. Sizes as in `server.max_body`."""

    memory: str = "64MiB"  # what each worker's answers may take together; 0: none are kept
    answer: str = "1MiB"  # the largest answer that is kept
    shared: bool = False  # keep answers in the database too, for every worker on every host


class PlanCache(Table, frozen=True):
    """`cache` of a plan: its requests are answered from the cache where they do not say otherwise."""

    enabled: bool = True
    ttl: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 300  # seconds that an answer is kept


class Plan(Table, frozen=True):
    """`[plans.NAME]`: what an account on it may use. `models` are patterns with `*`."""

    models: tuple[str, ...] = ("*",)
    requests: dict[Window, Count] = {}
    free: dict[Window, Count] = {}  # of requests to `:free` variants, instead of `requests`; empty: they count there
    tokens: dict[Window, Count] = {}
    spend: dict[Literal["day", "month", "total"], Dollars] = {}
    streams: Count | None = None
    timezone: str = "UTC"
    unpriced: Literal["refuse", "allow"] = "refuse"  # models without a price, where money is limited
    cache: PlanCache | None = None

    def allows(self, model: str) -> bool:
        """Does one of the patterns cover this model name?"""
        return any(covers(pattern, model) for pattern in self.models)


class Config(msgspec.Struct, frozen=True):
    """The whole configuration, checked."""

    server: Server = Server()
    store: Store = Store()
    routing: Routing = Routing()
    cache: Cache = Cache()
    jwt: Jwt | None = None
    providers: dict[str, Provider] = {}
    models: dict[str, Model] = {}
    plans: dict[str, Plan] = {}

    @property
    def max_body(self) -> int:
        """`server.max_body` in bytes."""
        return parse_size(self.server.max_body)

    @property
    def journal_max(self) -> int:
        """`store.journal_max` in bytes."""
        return parse_size(self.store.journal_max)

    @property
    def cache_memory(self) -> int:
        """`cache.memory` in bytes."""
        return parse_size(self.cache.memory)

    @property
    def cache_answer(self) -> int:
        """`cache.answer` in bytes."""
        return parse_size(self.cache.answer)


def covers(pattern: str, name: str) -> bool:
    """`*` stands for any run of characters, slashes too; everything else is literal."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


def parse_size(text: str) -> int:
    """`25MiB`, `512KiB`, `1048576` → bytes. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,12})\s*(B|KiB|MiB|GiB)?", text)
    if match is None:
        raise ValueError(f"{text!r} is not a size: write 25MiB, 512KiB or a number of bytes")
    return int(match[1]) * {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[match[2]]


def parse_listen(text: str) -> tuple[str, int] | str:
    """`HOST:PORT` → (host, port); `unix:PATH` → the path. Raises ValueError."""
    if text.startswith("unix:") and len(text) > 5:
        return text[5:]
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address: write HOST:PORT or unix:PATH")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  an empty host is the operator's word for all


# From the file to the structs

TABLES: dict[str, Any] = {"server": Server, "store": Store, "routing": Routing, "cache": Cache}
OPTIONAL_TABLES: dict[str, Any] = {"jwt": Jwt}
NAMED_TABLES: dict[str, Any] = {"providers": Provider, "models": Model, "plans": Plan}


def load(path: pathlib.Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check a file. Raises ConfigError."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    try:
        return parse(raw, environment)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(raw: Mapping[str, Any], environment: Mapping[str, str]) -> Config:
    """TOML's data → Config. Raises ConfigError."""
    known = [*TABLES, *OPTIONAL_TABLES, *NAMED_TABLES]
    for name in raw:
        if name not in known:
            raise ConfigError(f"[{name}]: no such table; known are {', '.join(known)}")

    def secret(kind: type, value: object) -> Secret:
        if not isinstance(value, str):
            raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
        return read_pem(value, environment) if kind is Pem else read_secret(value, environment)

    fields: dict[str, Any] = {name: convert(raw.get(name, {}), struct, name, secret) for name, struct in TABLES.items()}
    for name, struct in OPTIONAL_TABLES.items():
        fields[name] = convert(raw[name], struct, name, secret) if name in raw else None
    for name, struct in NAMED_TABLES.items():
        tables = raw.get(name, {})
        if not isinstance(tables, dict):
            raise ConfigError(f"[{name}]: expected tables [{name}.NAME]")
        fields[name] = {key: convert(table, struct, f"{name}.{quoted(key)}", secret) for key, table in tables.items()}
    fields["plans"] = fields["plans"] or {"all": Plan()}
    config = Config(**fields)
    check_server(config)
    check_store(config.store)
    check_cache(config.cache)
    if config.jwt is not None:
        check_jwt(config.jwt, config)
    for name, provider in config.providers.items():
        check_provider(name, provider)
    for name, model in config.models.items():
        check_model(name, model, config)
    for name, plan in config.plans.items():
        check_plan(name, plan)
    return config


def convert(table: object, struct: type[T], where: str, secret: Callable[[type, object], Secret]) -> T:
    """One table → its struct; `secret` reads what is to be a Secret. Raises ConfigError naming table and key."""
    try:
        return msgspec.convert(table, struct, dec_hook=secret)
    except msgspec.ValidationError as error:
        # "… - at `$.timeouts.connect`"; of a table's own keys "… - at `key` in `$.requests`"
        message, _, path = str(error).partition(" - at `")
        key = path.strip("`").removeprefix("key` in `").removeprefix("$").lstrip(".").removesuffix("[...]")
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
        if unknown is not None:
            known = f"; known are {', '.join(struct.__struct_fields__)}" if not key else ""  # type: ignore[attr-defined]
            raise ConfigError(
                f"[{where}] {'.'.join(filter(None, (key, unknown[1])))}: no such setting{known}"
            ) from None
        raise ConfigError(f"[{where}] {key + ': ' if key else ''}{message}") from None


def check_server(config: Config) -> None:
    """What types cannot say about `[server]`."""
    for key, check in (("max_body", parse_size), ("listen", parse_listen)):
        try:
            check(getattr(config.server, key))
        except ValueError as error:
            raise ConfigError(f"[server] {key}: {error}") from None
    public = config.server.public_models
    if public and public not in config.plans:
        raise ConfigError(f"[server] public_models: {public!r} is not a plan; there is {', '.join(config.plans)}")
    metrics = config.server.metrics.reveal()
    if metrics not in ("off", "public") and len(metrics) < METRICS_TOKEN:
        raise ConfigError(f"[server] metrics: write off, public, or a token of at least {METRICS_TOKEN} characters")


def check_store(store: Store) -> None:
    """What types cannot say about `[store]`. Its addresses may hold passwords, so no error prints one."""
    if store.database.reveal() != "sqlite" and not is_store(store.database.reveal(), ("postgresql",)):
        raise ConfigError("[store] database: write sqlite or postgresql://USER:PASSWORD@HOST:PORT/NAME")
    if store.limits.reveal() != "database" and not is_store(
        store.limits.reveal(), ("valkey", "valkeys", "redis", "rediss")
    ):
        raise ConfigError("[store] limits: write database or valkey://[:PASSWORD@]HOST:PORT/NUMBER")
    try:
        enough = parse_size(store.journal_max) >= JOURNAL_LEAST
    except ValueError as error:
        raise ConfigError(f"[store] journal_max: {error}") from None
    if not enough:
        raise ConfigError(f"[store] journal_max: {store.journal_max!r} is too little; 64MiB is the least")


def check_cache(cache: Cache) -> None:
    """What types cannot say about `[cache]`."""
    for key in ("memory", "answer"):
        try:
            parse_size(getattr(cache, key))
        except ValueError as error:
            raise ConfigError(f"[cache] {key}: {error}") from None


def check_provider(name: str, provider: Provider) -> None:
    """What types cannot say about a provider."""
    where = f"[providers.{quoted(name)}]"
    if "/" in name or not name.isascii() or not name.isprintable():
        raise ConfigError(f"{where}: a provider's name is printable ASCII without a slash")
    if provider.base_url and not is_base_url(provider.base_url):  # not printed: it may have a key in it
        raise ConfigError(f"{where} base_url: not http(s)://host[:port][/path]; keys go into `keys`")
    try:
        provider_settings.check(name, provider)
    except ValueError as error:
        raise ConfigError(f"{where} {error}") from None
    base_url = provider.base_url or provider_settings.default_base_url(name, provider)
    if not base_url:
        raise ConfigError(f"{where} base_url: missing, and {name!r} is not a provider that Waypost knows")
    if not provider.keys:
        raise ConfigError(f'{where} keys: at least one is needed, such as keys = ["env:NAME"]')
    check_weights(f"{where} weights", provider.weights, len(provider.keys), "key")


def check_weights(where: str, weights: tuple[float, ...], count: int, what: str) -> None:
    """As many as there is to weigh, and not all of them 0."""
    if weights and len(weights) != count:
        raise ConfigError(f"{where}: {len(weights)} of them; there must be {count}, one for each {what}")
    if weights and not any(weights):
        raise ConfigError(f"{where}: at least one must be more than 0")


def check_model(name: str, model: Model, config: Config) -> None:
    """Every link of a chain names a provider that exists."""
    where = f"[models.{quoted(name)}]"
    if not model.chain:
        raise ConfigError(f'{where} chain: empty; write chain = ["provider/model"]')
    for number, link in enumerate(model.chain):
        provider, slash, upstream_model = link.partition("/")
        if not slash or not upstream_model:
            raise ConfigError(f"{where} chain[{number}]: {link!r} is not provider/model")
        if provider not in config.providers:
            known = ", ".join(config.providers) or "none"
            raise ConfigError(f"{where} chain[{number}]: no provider {provider!r} is configured; there is {known}")
    check_weights(f"{where} weights", model.weights, len(model.chain), "link of the chain")
    if model.weights and model.strategy != "weighted":
        raise ConfigError(f'{where} weights: only with strategy = "weighted"')
    if model.strategy == "weighted" and not model.weights:
        raise ConfigError(f"{where} weights: missing; write one for each link of the chain, such as [3, 1]")
    if model.hedge is not None and len(set(model.chain)) < 2:
        raise ConfigError(f"{where} hedge: there is nobody else to ask; the chain has one link")
    for number, other in enumerate(model.models):
        if other not in config.models or other == name:
            raise ConfigError(f"{where} models[{number}]: {other!r} is not another model of this configuration")
    for link in model.prices:
        if link not in model.chain:
            raise ConfigError(f"{where} prices: {link!r} is not a link of the chain")


def check_jwt(jwt: Jwt, config: Config) -> None:
    """One source of keys, algorithms that fit it, and a plan for every account that tokens may create."""
    sources = [key for key in ("secret", "public_key", "jwks") if getattr(jwt, key)]
    if len(sources) != 1:
        given = " and ".join(sources) or "none of them"
        raise ConfigError(f"[jwt] {(sources or ['secret'])[-1]}: {given} is given; write one: secret, public_key, jwks")
    if not jwt.algorithms:
        raise ConfigError('[jwt] algorithms: empty; write those that your tokens are signed with, such as ["HS256"]')
    for algorithm in jwt.algorithms:
        # A public key taken for a shared secret would let everyone sign.
        if algorithm.startswith("HS") != (jwt.secret is not None):
            fitting = "HS256, HS384 or HS512" if jwt.secret is not None else "RS256, PS256, ES256 or EdDSA"
            raise ConfigError(f"[jwt] algorithms: {algorithm} does not go with {sources[0]}; that takes {fitting}")
        if jwt.secret is not None and len(jwt.secret.reveal()) * 8 < int(algorithm[2:]):
            least = int(algorithm[2:]) // 8
            raise ConfigError(f"[jwt] secret: {algorithm} needs {least} characters or more; try openssl rand -hex 64")
    if jwt.jwks and not is_jwks(jwt.jwks):
        raise ConfigError("[jwt] jwks: not https://host[:port][/path][?query]; http is for a loopback address alone")
    if not jwt.account_claim:
        raise ConfigError('[jwt] account_claim: empty; the claim that names the account is usually "sub"')
    if jwt.create_accounts and not jwt.plan_claim and len(config.plans) != 1:
        raise ConfigError(
            "[jwt] plan_claim: missing; without it a new account's plan is not known, as there are several"
        )


def check_plan(name: str, plan: Plan) -> None:
    """The time zone is one that this system knows."""
    if plan.timezone == "UTC":  # known without a database of zones, which small systems lack
        return
    try:
        zoneinfo.ZoneInfo(plan.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        where = f"[plans.{quoted(name)}] timezone"
        raise ConfigError(
            f"{where}: {plan.timezone!r} is not a time zone of this system's, such as Europe/Berlin"
        ) from None


def quoted(key: str) -> str:
    """A key as TOML writes it in a table's name."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'


def default(environment: Mapping[str, str], simulator_socket: str) -> Config:
    """Without a file: every provider whose usual key is in the environment, and `route/demo` on the simulator."""
    tables: dict[str, Any] = {
        row.name: {"keys": [f"env:{row.key}"]} for row in providers.TABLE if environment.get(row.key)
    }
    tables["simulator"] = {"base_url": "http://simulator/v1", "socket": simulator_socket, "keys": ["none"]}
    demo = {"chain": ["simulator/sim/demo"], "context": 128_000, "modalities": ["text"]}
    return parse({"providers": tables, "models": {"route/demo": demo}}, environment)
