"""The configuration: what is read, what is refused and in which words, and that its page tells all of it."""

from __future__ import annotations

import pathlib
import re
import tomllib
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from waypost import config, provider_settings, providers
from waypost.config import Config, ConfigError

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "configuration.md"
SECRET = "sk-not-to-be-seen-anywhere"
ENVIRONMENT = {"DEEPSEEK_API_KEY": SECRET, "EMPTY": ""}
PROVIDER = '[providers.deepseek]\nkeys = ["env:DEEPSEEK_API_KEY"]\n'
LAB = '[providers.lab]\nbase_url = "http://127.0.0.1:1/v1"\nkeys = ["k"]\n'
JWT = f'[jwt]\nsecret = "{"s" * 32}"\n'
MODEL = '[models."route/x"]\nchain = ["deepseek/m"]\n'


def load(text: str, folder: pathlib.Path) -> Config:
    path = folder / "waypost.toml"
    path.write_text(text)
    return config.load(path, ENVIRONMENT)


def test_an_empty_file_is_all_defaults(tmp_path: pathlib.Path) -> None:
    settings = load("", tmp_path)
    assert settings == Config(plans={"all": config.Plan()})
    assert settings.max_body == 25 * 1024 * 1024
    assert settings.plans["all"].allows("anything/at all")


def test_everything_at_once(tmp_path: pathlib.Path) -> None:
    (tmp_path / "key").write_text("from-a-file\n")
    text = f"""
        [server]
        listen = "unix:/run/w.sock"
        workers = 3
        error_format = "json"
        max_body = "512 KiB"
        cors = ["https://app.example"]
        tls = {{ certificate = "c.pem", key = "k.pem" }}
        keepalive = 0
        drain = 2.5
        [store]
        database = "sqlite"
        [providers.deepseek]
        keys = ["env:DEEPSEEK_API_KEY", "file:{tmp_path}/key", "literal"]
        timeouts = {{ connect = 3, first_byte = 60, idle = 30, total = 600 }}
        idle = 12
        connections = 5
        ca = "ca.pem"
        socket = "/run/up.sock"
        weights = [1, 0, 2.5]
        data_collection = "deny"
        parameters = ["temperature", "tools"]
        [routing]
        attempts = 5
        deadline = 30
        client_retries = true
        [models."route/y"]
        chain = ["deepseek/c"]
        [models."route/x"]
        chain = ["deepseek/a/b", "deepseek/c"]
        strategy = "weighted"
        weights = [3, 1]
        models = ["route/y"]
        larger = true
        strict_tool_pinning = true
        deadline = 12.5
        prices = {{ "deepseek/c" = {{ input = "1", output = "2" }} }}
        price = {{ input = "0.28", output = "0.42", cache_read = "0.028" }}
        context = 128000
        modalities = ["text", "image"]
        [plans.free]
        models = ["route/*", "gpt-*"]
        requests = {{ minute = 1, hour = 2, day = 3, month = 4 }}
        tokens = {{ day = 100 }}
        spend = {{ day = "1.50", month = "20", total = "100" }}
        streams = 5
        timezone = "Europe/Berlin"
    """
    settings = load(text, tmp_path)
    assert settings.server.tls == config.TLS("c.pem", "k.pem") and settings.max_body == 512 * 1024
    assert settings.providers["deepseek"].timeouts == config.Timeouts(3, 60, 30, 600)
    assert settings.models["route/x"].price == config.Price("0.28", "0.42", "0.028")
    assert settings.models["route/x"].prices == {"deepseek/c": config.Price("1", "2")}
    assert settings.routing == config.Routing(5, 30.0, True)

    assert settings.plans["free"].allows("route/a/b") and not settings.plans["free"].allows("xgpt-4")


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("lab", "", "openai"),
        ("lab", 'api_version = "2024-10-21"\n', "azure"),
        ("lab", 'base_url = "https://x.openai.azure.com/openai"\n', "azure"),
        ("lab", 'format = "anthropic"\n', "anthropic"),
        ("lab", 'format = "anthropic"\nproject = "p"\nlocation = "eu"\n', "vertex"),
        ("lab", 'format = "gemini"\n', "gemini"),
        ("lab", 'format = "bedrock"\nregion = "eu-central-1"\n', "bedrock"),
        ("lab", 'format = "cohere"\n', "cohere"),
        ("deepseek", "", "openai"),
    ],
)
def test_ways_of_speaking(tmp_path: pathlib.Path, name: str, text: str, kind: str) -> None:
    address = "" if "base_url" in text else 'base_url = "http://127.0.0.1:1/v1"\n'
    settings = load(f'[providers.{name}]\nkeys = ["k"]\n{address}{text}', tmp_path)
    assert provider_settings.kind_of(name, settings.providers[name]) == kind


def test_a_service_account_s_file_is_one_secret(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sa.json").write_text('{\n  "client_email": "a@b",\n  "private_key": "-----BEGIN\\n"\n}\n')
    secret = config.read_secret(f"file:{tmp_path}/sa.json", {})
    assert secret.reveal() == '{"client_email": "a@b", "private_key": "-----BEGIN\\n"}'


# What is refused

MISTAKES: list[tuple[str, str, str]] = [
    ("[server]\nlisten\n", "not valid TOML", "line 2"),
    ("[serve]\n", "[serve]", "no such table; known are server, store, routing, cache, jwt"),
    ("listen = 1\n", "[listen]", "no such table"),
    ("server = 5\n", "[server]", "object"),
    ("[server]\nlistten = 1\n", "[server] listten", "no such setting; known are listen, workers"),
    ('[server]\nlisten = "8080"\n', "[server] listen", "write HOST:PORT or unix:PATH"),
    ('[server]\nlisten = "host:99999"\n', "[server] listen", "write HOST:PORT"),
    ("[server]\ndrain = inf\n", "[server] drain", "<= 86400"),
    ('[server]\nlisten = "host:²"\n', "[server] listen", "write HOST:PORT"),
    ("[server]\nworkers = -1\n", "[server] workers", ">= 0"),
    ('[server]\nworkers = "2"\n', "[server] workers", "int"),
    ('[server]\nerror_format = "html"\n', "[server] error_format", "html"),
    ('[server]\nmax_body = "25MB"\n', "[server] max_body", "write 25MiB"),
    ('[server]\ntls = { certificate = "c" }\n', "[server] tls", "key"),
    ('[server]\ntls = { certificate = "c", key = "k", chain = "x" }\n', "[server] tls.chain", "no such setting"),
    ('[store]\ndatabase = "mysql"\n', "[store] database", "write sqlite or postgresql://"),
    ('[store]\ndatabase = "sqlite:///x.db"\n', "[store] database", "write sqlite or postgresql://"),
    ('[store]\ndatabase = "postgresql://h:99999/x"\n', "[store] database", "write sqlite or postgresql://"),
    ('[store]\ndatabase = "postgresql://"\n', "[store] database", "write sqlite or postgresql://"),
    ('[store]\ndatabase = "env:EMPTY"\n', "[store] database", "variable EMPTY is not set"),
    ('[store]\nlimits = "postgresql://h/x"\n', "[store] limits", "write database or valkey://"),
    ('[store]\nlimits_on_outage = "open"\n', "[store] limits_on_outage", "open"),
    ('[store]\njournal_max = "1GB"\n', "[store] journal_max", "write 25MiB"),
    ('[store]\njournal_max = "65535KiB"\n', "[store] journal_max", "64MiB is the least"),
    ('[store]\njournal_sync = "always "\n', "[store] journal_sync", "always "),
    ("[store]\nretention = -1\n", "[store] retention", ">= 0"),
    (LAB + 'format = "grpc"\n', "[providers.lab] format", "grpc"),
    (LAB + 'region = "us-east-1"\n', "[providers.lab] region", "openai has no use for it"),
    (LAB + 'format = "bedrock"\n', "[providers.lab] region", 'bedrock needs it, such as region = "us-east-1"'),
    (LAB + 'format = "bedrock"\nregion = "US East"\n', "[providers.lab] region", "is none"),
    (LAB + 'format = "gemini"\nproject = "p"\n', "[providers.lab] location", "vertex needs it"),
    (
        LAB + 'format = "gemini"\nlocation = "us"\n',
        "[providers.lab] project",
        "only a service account's file names one",
    ),
    (LAB + 'format = "cohere"\napi_version = "1"\n', "[providers.lab] api_version", "cohere has no use for it"),
    (LAB + 'media = "always"\n', "[providers.lab] media", "always"),
    (LAB + "capabilities = { vision = true }\n", "[providers.lab] capabilities.vision", "no such setting"),
    (LAB + 'capabilities = { inputs = ["smell"] }\n', "[providers.lab] capabilities.inputs", "smell"),
    (MODEL + "cache_from = 0\n", '[models."route/x"] cache_from', ">= 1"),
    ("[routing]\nattempts = 0\n", "[routing] attempts", ">= 1"),
    ('[cache]\nmemory = "64MB"\n', "[cache] memory", "write 25MiB"),
    ('[cache]\nanswer = "-1"\n', "[cache] answer", "write 25MiB"),
    ("[plans.p]\ncache = { ttl = 0 }\n", "[plans.p] cache.ttl", ">= 1"),
    ("[plans.p]\ncache = { ttl = 86401 }\n", "[plans.p] cache.ttl", "<= 86400"),
    ("[plans.p]\ncache = { on = true }\n", "[plans.p] cache.on", "no such setting"),
    ("[routing]\ndeadline = 0\n", "[routing] deadline", "> 0"),
    (PROVIDER + "weights = [1, 2]\n", "[providers.deepseek] weights", "2 of them; there must be 1, one for each key"),
    (PROVIDER + "weights = [0]\n", "[providers.deepseek] weights", "more than 0"),
    (PROVIDER + "weights = [-1]\n", "[providers.deepseek] weights", ">= 0"),
    (PROVIDER + 'data_collection = "no"\n', "[providers.deepseek] data_collection", "no"),
    (PROVIDER + MODEL + 'strategy = "random"\n', '[models."route/x"] strategy', "random"),
    (PROVIDER + MODEL + 'strategy = "weighted"\n', '[models."route/x"] weights', "missing; write one for each link"),
    (PROVIDER + MODEL + "weights = [1]\n", '[models."route/x"] weights', 'only with strategy = "weighted"'),
    (PROVIDER + MODEL + "min_throughput = 0\n", '[models."route/x"] min_throughput', "> 0"),
    (PROVIDER + MODEL + "min_throughput = 10001\n", '[models."route/x"] min_throughput', "<= 10000"),
    (PROVIDER + MODEL + "hedge = 0\n", '[models."route/x"] hedge', "> 0"),
    (PROVIDER + MODEL + "hedge = 1\n", '[models."route/x"] hedge', "nobody else to ask"),
    (PROVIDER + MODEL + 'models = ["route/z"]\n', '[models."route/x"] models[0]', "not another model"),
    (PROVIDER + MODEL + 'models = ["route/x"]\n', '[models."route/x"] models[0]', "not another model"),
    (
        PROVIDER + MODEL + 'prices = { "a/b" = { input = "1", output = "1" } }\n',
        '[models."route/x"] prices',
        "not a link",
    ),
    ("[jwt]\n", "[jwt] secret", "none of them is given; write one: secret, public_key, jwks"),
    (JWT + 'jwks = "https://idp.example/keys"\n', "[jwt] jwks", "secret and jwks is given; write one"),
    ('[jwt]\nsecret = ""\n', "[jwt] secret", "the secret is empty"),
    ('[jwt]\nsecret = "env:EMPTY"\n', "[jwt] secret", "variable EMPTY is not set"),
    ('[jwt]\nsecret = "short"\n', "[jwt] secret", "HS256 needs 32 characters or more"),
    (JWT + 'algorithms = ["HS256", "HS512"]\n', "[jwt] secret", "HS512 needs 64 characters or more"),
    (JWT + "algorithms = []\n", "[jwt] algorithms", "empty"),
    (JWT + 'algorithms = ["none"]\n', "[jwt] algorithms[0]", "none"),
    (JWT + 'algorithms = ["RS256"]\n', "[jwt] algorithms", "RS256 does not go with secret; that takes HS256"),
    ('[jwt]\njwks = "https://a/k"\n', "[jwt] algorithms", "HS256 does not go with jwks; that takes RS256"),
    ('[jwt]\npublic_key = "file:/no/such"\n', "[jwt] public_key", "/no/such cannot be read"),
    ('[jwt]\npublic_key = "text"\n', "[jwt] public_key", "not a PEM text, which starts with -----BEGIN"),
    ('[jwt]\njwks = "http://idp.example/k"\nalgorithms = ["RS256"]\n', "[jwt] jwks", "not https://host"),
    ('[jwt]\njwks = "http://127.0.0.1.example/k"\nalgorithms = ["RS256"]\n', "[jwt] jwks", "not https://host"),
    ('[jwt]\njwks = "https://u:p@idp/k"\nalgorithms = ["RS256"]\n', "[jwt] jwks", "not https://host"),
    ('[jwt]\njwks = "file:///etc/k"\nalgorithms = ["RS256"]\n', "[jwt] jwks", "not https://host"),
    (JWT + 'account_claim = ""\n', "[jwt] account_claim", "empty"),
    (JWT + "create_accounts = true\n[plans.a]\n[plans.b]\n", "[jwt] plan_claim", "a new account's plan is not known"),
    (JWT + "key = 1\n", "[jwt] key", "no such setting; known are algorithms, secret"),
    ("jwt = 5\n", "[jwt]", "object"),
    ("providers = 1\n", "[providers]", "[providers.NAME]"),
    ("[providers]\ndeepseek = 1\n", "[providers.deepseek]", "object"),
    ('[providers."a/b"]\nkeys = ["k"]\n', '[providers."a/b"]', "without a slash"),
    ('[providers."ä"]\nkeys = ["k"]\n', '[providers."ä"]', "ASCII"),
    ('[providers.lab]\nkeys = ["k"]\n', "[providers.lab] base_url", "'lab' is not a provider that Waypost knows"),
    ('[providers.lab]\nbase_url = "host/v1"\nkeys = ["k"]\n', "[providers.lab] base_url", "http(s)://host"),
    ('[providers.lab]\nbase_url = "http://h:99999"\nkeys = ["k"]\n', "[providers.lab] base_url", "http(s)://host"),
    ('[providers.lab]\nbase_url = "http://[::1/v1"\nkeys = ["k"]\n', "[providers.lab] base_url", "http(s)://host"),
    ('[providers.lab]\nbase_url = "http://é/v1"\nkeys = ["k"]\n', "[providers.lab] base_url", "http(s)://host"),
    ("[providers.deepseek]\n", "[providers.deepseek] keys", 'keys = ["env:NAME"]'),
    ('[providers.deepseek]\nkeys = ["a", 5]\n', "[providers.deepseek] keys[1]", "Expected `str`"),
    ("[providers.deepseek]\nkeys = []\n", "[providers.deepseek] keys", "at least one"),
    ('[providers.deepseek]\nkeys = ["a", "env:NOPE"]\n', "[providers.deepseek] keys[1]", "variable NOPE is not set"),
    ('[providers.deepseek]\nkeys = ["env:EMPTY"]\n', "[providers.deepseek] keys[0]", "variable EMPTY is not set"),
    ('[providers.deepseek]\nkeys = ["file:/no/such"]\n', "[providers.deepseek] keys[0]", "/no/such cannot be read"),
    ('[providers.deepseek]\nkeys = ["file:/dev/null"]\n', "[providers.deepseek] keys[0]", "/dev/null is empty"),
    (PROVIDER + "timeouts = { connect = 0 }\n", "[providers.deepseek] timeouts.connect", "> 0"),
    (PROVIDER + "timeouts = { total = inf }\n", "[providers.deepseek] timeouts.total", "<= 86400"),
    (PROVIDER + "timeouts = { idle = nan }\n", "[providers.deepseek] timeouts.idle", "> 0"),
    (PROVIDER + "timeouts = { conect = 1 }\n", "[providers.deepseek] timeouts.conect", "no such setting"),
    (PROVIDER + 'format = "grpc"\n', "[providers.deepseek] format", "grpc"),
    (PROVIDER + "connections = 0\n", "[providers.deepseek] connections", ">= 1"),
    (PROVIDER + "[models.m]\n", "[models.m]", "chain"),
    (PROVIDER + "[models.m]\nchain = []\n", "[models.m] chain", 'chain = ["provider/model"]'),
    (PROVIDER + '[models.m]\nchain = "deepseek/x"\n', "[models.m] chain", "array"),
    (PROVIDER + '[models."a.b"]\nchain = ["deepseek"]\n', '[models."a.b"] chain[0]', "not provider/model"),
    (PROVIDER + '[models.m]\nchain = ["deepseek/x", "nope/x"]\n', "[models.m] chain[1]", "there is deepseek"),
    (PROVIDER + MODEL + "price = { input = 0.28, output = 1 }\n", '[models."route/x"] price.input', "str"),
    (PROVIDER + MODEL + 'price = { input = "1e3", output = "1" }\n', '[models."route/x"] price.input', "regex"),
    (PROVIDER + MODEL + "context = 0\n", '[models."route/x"] context', ">= 1"),
    ("[plans.p]\nrequests = { week = 1 }\n", "[plans.p] requests", "week"),
    ('[plans.p]\nspend = { day = "-1" }\n', "[plans.p] spend", "regex"),
    ("[plans.p]\nmodels = [1]\n", "[plans.p] models", "str"),
    ('[plans.p]\ntimezone = "Mars/Olympus"\n', "[plans.p] timezone", "'Mars/Olympus' is not a time zone"),
    ('[plans.p]\ntimezone = "Europe"\n', "[plans.p] timezone", "such as Europe/Berlin"),
    ('[plans.p]\ntimezone = "../../etc/passwd"\n', "[plans.p] timezone", "is not a time zone"),
]


@pytest.mark.parametrize(("text", "where", "why"), MISTAKES)
def test_a_mistake_names_file_table_key_and_fix(tmp_path: pathlib.Path, text: str, where: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/waypost.toml: ")
    assert where in message and why in message
    assert "\n" not in message and SECRET not in message


def test_files_that_cannot_be_read(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: No such file"):
        config.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'[server]\nlisten = "\xe4"\n')
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.load(tmp_path / "latin.toml")


# Tokens


@pytest.mark.parametrize(
    "text",
    [
        JWT,
        JWT + 'algorithms = ["HS256"]\nissuer = "i"\naudience = "a"\naccount_claim = "uid"\nplan_claim = "plan"\n',
        JWT + "create_accounts = true\n",
        JWT + 'create_accounts = true\nplan_claim = "plan"\n[plans.a]\n[plans.b]\n',
        '[jwt]\njwks = "https://idp.example:8443/keys?v=2"\nalgorithms = ["RS256", "ES256", "EdDSA"]\n',
        '[jwt]\njwks = "http://127.0.0.1:8000/keys"\nalgorithms = ["PS256"]\n',
        '[jwt]\njwks = "http://[::1]:8000/keys"\nalgorithms = ["PS256"]\n',
    ],
)
def test_good_tables_of_tokens(tmp_path: pathlib.Path, text: str) -> None:
    assert load(text, tmp_path).jwt is not None
    assert load("", tmp_path).jwt is None


def test_a_public_key_is_read_from_its_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "key.pem").write_text("-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n")
    settings = load(f'[jwt]\nalgorithms = ["RS256"]\npublic_key = "file:{tmp_path}/key.pem"\n', tmp_path)
    assert settings.jwt is not None and settings.jwt.public_key is not None
    assert settings.jwt.public_key.reveal().splitlines()[1] == "abc"


# Secrets


def test_secrets_do_not_print(tmp_path: pathlib.Path) -> None:
    text = f'[providers.deepseek]\nkeys = ["{SECRET}", "env:DEEPSEEK_API_KEY"]\n'
    settings = load(text, tmp_path)
    assert SECRET not in repr(settings) and SECRET not in str(settings.providers["deepseek"])
    assert [key.reveal() for key in settings.providers["deepseek"].keys] == [SECRET, SECRET]
    secret = config.read_secret("env:DEEPSEEK_API_KEY", ENVIRONMENT)
    assert secret.reveal() == SECRET
    assert SECRET not in f"{secret} {secret!r} {[secret]}"
    assert secret == config.Secret(SECRET) and hash(secret) == hash(config.Secret(SECRET)) and secret != SECRET


@pytest.mark.parametrize(
    "text",
    [
        f'[providers.deepseek]\nkeys = ["{SECRET}\\n"]\n',
        f'[providers.deepseek]\nkeys = ["{SECRET} é"]\n',
        f'[providers.deepseek]\nkeys = "{SECRET}"\n',
        f'[providers.deepseek]\nkeys = ["{SECRET}", 5]\n',
        f'[providers.deepseek]\nkeys = ["{SECRET}"\n',
        f'[providers.deepseek]\nkey = "{SECRET}"\n',
        f'[providers.lab]\nkeys = ["{SECRET}"]\n',
        f'[providers.lab]\nkeys = ["x"]\nbase_url = "https://user:{SECRET}@host/v1"\n',
        f'[providers.lab]\nkeys = ["x"]\nbase_url = "https://host/v1?key={SECRET}"\n',
        f'[providers]\ndeepseek = "{SECRET}"\n',
        f'[store]\ndatabase = "mysql://ann:{SECRET}@host/x"\n',
        f'[store]\ndatabase = "postgresql://ann:{SECRET}@host:0x/y"\n',
        f'[store]\nlimits = "http://:{SECRET}@host"\n',
    ],
)
def test_a_mistake_near_a_secret_does_not_print_it(tmp_path: pathlib.Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path)
    assert SECRET not in str(caught.value)


def test_a_secret_from_a_file_loses_its_line_end(tmp_path: pathlib.Path) -> None:
    (tmp_path / "key").write_text(f"  {SECRET}\n")
    assert config.read_secret(f"file:{tmp_path}/key", {}).reveal() == SECRET


# Small grammars


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("1048576", 1 << 20), ("1B", 1), ("2KiB", 2048), ("3 MiB", 3 << 20), ("1GiB", 1 << 30)],
)
def test_sizes(text: str, expected: int) -> None:
    assert config.parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "1kB", "-1", "1.5MiB", "MiB", "1 MiB x", "1" * 13])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        config.parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        (":80", ("0.0.0.0", 80)),
        ("localhost:65535", ("localhost", 65535)),
        ("unix:/run/x.sock", "/run/x.sock"),
        ("unix:relative", "relative"),
    ],
)
def test_addresses(text: str, expected: Any) -> None:
    assert config.parse_listen(text) == expected


@pytest.mark.parametrize("text", ["", "8080", "host", "host:", "host:x", "host:-1", "host:65536", "unix:"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT or unix:PATH"):
        config.parse_listen(text)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "a/b\nc", True),
        ("route/*", "route/", True),
        ("route/*", "xroute/a", False),
        ("*-mini", "gpt-4o-mini", True),
        ("a*b*c", "a1b2c", True),
        ("a*b*c", "acb", False),
        ("a.c", "abc", False),
        ("gpt-4o", "gpt-4o-mini", False),
        ("[a]", "a", False),
        ("", "", True),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert config.covers(pattern, name) == expected


# Without a file


def test_without_a_file_the_environment_s_providers_are_served() -> None:
    settings = config.default({"GROQ_API_KEY": "a", "OPENAI_API_KEY": "b", "MISTRAL_API_KEY": "", "OTHER": "c"}, "/s")
    assert set(settings.providers) == {"groq", "openai", "simulator"}
    assert settings.providers["groq"].keys == (config.Secret("a"),)
    assert settings.providers["simulator"].socket == "/s"
    assert list(settings.models) == ["route/demo"] and settings.models["route/demo"].chain == ("simulator/sim/demo",)
    assert set(config.default({}, "/s").providers) == {"simulator"}
    everything = config.default({row.key: "k" for row in providers.TABLE}, "/s")
    assert set(everything.providers) == {row.name for row in providers.TABLE} | {"simulator"}


# The page


def structs() -> list[type[msgspec.Struct]]:
    found = [*config.TABLES.values(), *config.OPTIONAL_TABLES.values(), *config.NAMED_TABLES.values()]
    for struct in found:
        for hint in get_type_hints(struct).values():
            inner = [part for part in (hint, *get_args(hint)) if isinstance(part, type)]
            found += [part for part in inner if issubclass(part, msgspec.Struct) and part not in found]
    return found


def test_every_setting_is_in_the_page() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    names = [field for struct in structs() for field in struct.__struct_fields__]
    assert {"listen", "certificate", "database", "first_byte", "chain", "cache_read", "streams"} <= set(names)
    assert sorted(names) == sorted(row for row in rows if row not in providers.BY_NAME)


def test_every_default_is_in_the_page() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)
    told = {(name, default) for name, default in rows if name not in providers.BY_NAME}
    for struct in structs():
        for field in msgspec.structs.fields(struct):
            default = field.default
            if isinstance(default, int | float | str) and default != "":
                shown = f'"{default}"' if isinstance(default, str) else f"{default:g}"
                shown = str(default).lower() if isinstance(default, bool) else shown
                assert (field.name, shown) in told, f"{struct.__name__}.{field.name} is {shown}"


def test_every_provider_is_in_the_page() -> None:
    page = PAGE.read_text()
    for row in providers.TABLE:
        assert f"| `{row.name}` | `{row.key}` | `{row.base_url}` |" in page


def test_the_page_s_example_is_good(tmp_path: pathlib.Path) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert example is not None
    text = example[1].replace("/run/secrets/lab-key", str(tmp_path / "key"))
    (tmp_path / "key").write_text("k")
    settings = load(text, tmp_path)
    assert set(tomllib.loads(text)["plans"]) == set(settings.plans) == {"free", "staff"}
    assert settings.plans["staff"].allows("deepseek-chat") and not settings.plans["free"].allows("deepseek-chat")
