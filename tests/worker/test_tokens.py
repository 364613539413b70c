"""JSON Web Tokens through the real `waypost serve`: which are good, and that every tampering is the same 401."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import pathlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import msgspec
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.harness import Answer, Waypost, serving, wait_until

SECRET = "an-hs256-secret-of-more-than-32-characters"
OTHER = "another-secret-of-more-than-32-characters"
ISSUER, AUDIENCE = "https://login.example", "waypost"
PLANS = '[plans.free]\nmodels = ["sim/*"]\n[plans.max]\n'
RSA = rsa.generate_private_key(65537, 2048)
WORDS = "the key is not valid here: mistyped, unknown, expired or revoked"


def table(keys: str, algorithms: str, more: str = "") -> str:
    """A configuration with a `[jwt]` table."""
    claims = f'issuer = "{ISSUER}"\naudience = "{AUDIENCE}"\nplan_claim = "plan"\ncreate_accounts = true\n'
    return f'{PLANS}[jwt]\n{keys}\nalgorithms = ["{algorithms}"]\n{claims}{more}'


def claims(**changed: Any) -> dict[str, Any]:
    """Those of a good token, with changes; a value of None leaves a claim out."""
    now = int(time.time())
    good = {"sub": "ann", "plan": "max", "exp": now + 3600, "iat": now, "iss": ISSUER, "aud": AUDIENCE}
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def part(value: Any) -> str:
    """A part of a token: JSON, or bytes as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: Any, payload: Any, key: bytes = SECRET.encode(), digest: Any = hashlib.sha256) -> str:
    """A token with an HMAC for its signature, whatever its header says."""
    head = f"{part(header)}.{part(payload)}"
    return f"{head}.{part(hmac.new(key, head.encode(), digest).digest())}"


def good(**changed: Any) -> str:
    """An HS256 token; good unless its claims are changed."""
    return signed({"alg": "HS256", "typ": "JWT"}, claims(**changed))


def headed(**members: Any) -> str:
    """A token with good claims and a good signature, and more in its header."""
    return signed({"alg": "HS256", **members}, claims())


def pem(key: Any) -> bytes:
    """The public half of a private key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def ask(waypost: Waypost, token: str | bytes, header: str = "authorization: Bearer ") -> Answer:
    """What `GET /v1/models` answers to a token."""
    text = token if isinstance(token, str) else token.decode("latin-1")
    with waypost.connect() as client:
        lines = f"GET /v1/models HTTP/1.1\r\nhost: x\r\naccept: application/json\r\n{header}{text}\r\n\r\n"
        client.send(lines.encode("latin-1"))
        return client.answer()


def refused(waypost: Waypost, token: str | bytes) -> None:
    """It is a 401 in the same words as every other; at more than ten a second, a 429 whose Retry-After is obeyed."""
    answer = ask(waypost, token)
    while answer.status == 429:
        assert (answer.code, answer.header("retry-after")) == ("TOO_MANY_FAILED_LOGINS", "1")
        time.sleep(1.0)
        answer = ask(waypost, token)
    assert (answer.status, answer.code) == (401, "AUTHENTICATION_ERROR"), answer.body
    assert answer.header("www-authenticate") == "Bearer"
    assert answer.json["error"]["message"].startswith(WORDS)


@pytest.fixture(scope="module")
def hs256() -> Iterator[Waypost]:
    with serving(table(f'secret = "{SECRET}"', "HS256")) as waypost:
        yield waypost


@pytest.fixture(scope="module")
def rs256(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waypost]:
    path = tmp_path_factory.mktemp("rs256") / "key.pem"
    path.write_bytes(pem(RSA))
    with serving(table(f'public_key = "file:{path}"', "RS256")) as waypost:
        yield waypost


# Good tokens


@pytest.mark.parametrize("header", ["authorization: Bearer ", "authorization: bearer ", "x-api-key: ", "api-key: "])
def test_a_good_token_passes_in_every_header_form(hs256, header):
    assert ask(hs256, good(), header).status == 200


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"aud": ["others", AUDIENCE]},
        {"plan": None},
        {"iat": None},
        {"nbf": 1},
        {"iat": int(time.time()) + 5},
        {"sub": "Ännchen 安"},
        {"more": {"nested": [1, 2.5, None]}},
        {"exp": 253_402_300_799},
        {"exp": 253_402_300_798.5},
    ],
)
def test_what_may_differ_in_a_good_token(hs256, changed):
    assert ask(hs256, good(**{"sub": "bob", **changed}) if changed.get("plan", 1) else good()).status == 200


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("RS256", lambda: RSA),
        ("PS512", lambda: RSA),
        ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("ES384", lambda: ec.generate_private_key(ec.SECP384R1())),
        ("ES512", lambda: ec.generate_private_key(ec.SECP521R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate),
        ("EdDSA", ed448.Ed448PrivateKey.generate),
    ],
)
def test_a_public_key_in_a_file(tmp_path: pathlib.Path, algorithm: str, make: Callable[[], Any]) -> None:
    key = make()
    (tmp_path / "key.pem").write_bytes(pem(key))
    with serving(table(f'public_key = "file:{tmp_path}/key.pem"', algorithm)) as waypost:
        assert ask(waypost, jwt.encode(claims(), key, algorithm)).status == 200
        refused(waypost, jwt.encode(claims(), make() if key is not RSA else other_rsa(), algorithm))


def other_rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def test_a_token_counts_for_its_account_and_its_plan(hs256):
    """Seen by what it may have: the plan free knows no model that is not in sim/*."""
    for plan, status in [("max", 404), ("free", 404)]:
        assert ask_model(hs256, good(plan=plan), "route/none") == status
    with hs256.connect() as client:
        body = json.dumps({"model": "openai/x", "messages": [{"role": "user", "content": "x"}]}).encode()
        for plan, code in [("free", "INVALID_MODEL"), ("max", "INVALID_MODEL")]:
            lines = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {good(plan=plan)}\r\n"
            client.send(f"{lines}content-length: {len(body)}\r\n\r\n".encode() + body)
            assert client.answer().code == code


def ask_model(waypost: Waypost, token: str, name: str) -> int:
    with waypost.connect() as client:
        client.send(f"GET /v1/models/{name} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode())
        return client.answer().status


# Tampered tokens


def duplicated(name: str) -> str:
    """A header that says something twice, well signed."""
    header = b'{"alg":"HS256",' + name.encode() + b"}"
    return signed(header, claims())


def twin() -> str:
    """A token that begins like a good one, for another account and with another key."""
    return signed({"alg": "HS256", "typ": "JWT"}, claims(sub="eve"), OTHER.encode())


def resigned(algorithm: str, key: bytes, digest: Any = hashlib.sha256) -> str:
    return signed({"alg": algorithm, "typ": "JWT"}, claims(), key, digest)


MUTATIONS: dict[str, Callable[[], str | bytes]] = {
    "alg none, no signature": lambda: f"{part({'alg': 'none'})}.{part(claims())}.",
    "alg none, some signature": lambda: f"{part({'alg': 'none'})}.{part(claims())}.{part(b'x' * 32)}",
    "alg NoNe": lambda: f"{part({'alg': 'NoNe'})}.{part(claims())}.{part(b'x' * 32)}",
    "alg missing": lambda: signed({"typ": "JWT"}, claims()),
    "alg null": lambda: signed({"alg": None}, claims()),
    "alg a list": lambda: signed({"alg": ["HS256"]}, claims()),
    "alg in lower case": lambda: signed({"alg": "hs256"}, claims()),
    "alg not configured": lambda: resigned("HS512", SECRET.encode(), hashlib.sha512),
    "alg RS256 with an HMAC": lambda: resigned("RS256", SECRET.encode()),
    "kid a path, signed with what is there": lambda: signed(
        {"alg": "HS256", "kid": "../../../../etc/passwd"}, claims(), pathlib.Path("/etc/passwd").read_bytes()
    ),
    "kid a path, signed with nothing": lambda: signed({"alg": "HS256", "kid": "/dev/null"}, claims(), b""),
    "kid a number": lambda: headed(kid=1),
    "crit": lambda: headed(crit=["exp"]),
    "crit empty": lambda: headed(crit=[]),
    "crit with an unknown member": lambda: headed(crit=["x"], x=1),
    "b64 false": lambda: headed(b64=False, crit=["b64"]),
    "b64 false without crit": lambda: headed(b64=False),
    "b64 false, no payload": lambda: f"{part({'alg': 'HS256', 'b64': False, 'crit': ['b64']})}..{part(b'x' * 32)}",
    "jku": lambda: headed(jku="http://127.0.0.1:1/keys"),
    "x5u": lambda: headed(x5u="http://127.0.0.1:1/keys"),
    "jwk": lambda: headed(jwk={"kty": "oct", "k": part(b"x" * 32)}),
    "x5c": lambda: headed(x5c=["x"]),
    "zip": lambda: headed(zip="DEF"),
    "enc": lambda: headed(enc="A128GCM"),
    "expired": lambda: good(exp=int(time.time()) - 1),
    "expires now": lambda: good(exp=int(time.time())),
    "exp missing": lambda: good(exp=None),
    "exp null": lambda: signed({"alg": "HS256"}, claims() | {"exp": None}),
    "exp a string": lambda: good(exp=str(int(time.time()) + 3600)),
    "exp a float that is over": lambda: good(exp=time.time() - 0.5),
    "exp huge": lambda: good(exp=10**30),
    "exp 1e400": lambda: signed({"alg": "HS256"}, json.dumps(claims(exp=1)).encode().replace(b": 1,", b": 1e400,")),
    "exp infinite": lambda: good(exp=float("inf")),
    "exp negative": lambda: good(exp=-1),
    "exp true": lambda: good(exp=True),
    "exp of 5000 digits": lambda: signed(
        {"alg": "HS256"}, json.dumps(claims(exp=1)).encode().replace(b": 1,", b": " + b"9" * 5000 + b",")
    ),
    "nbf in the future": lambda: good(nbf=int(time.time()) + 3600),
    "nbf a string": lambda: good(nbf="0"),
    "iat in the future": lambda: good(iat=int(time.time()) + 3600),
    "iss wrong": lambda: good(iss="https://login.example.evil"),
    "iss missing": lambda: good(iss=None),
    "iss a list": lambda: good(iss=[ISSUER]),
    "aud wrong": lambda: good(aud="others"),
    "aud missing": lambda: good(aud=None),
    "aud a part of ours": lambda: good(aud="way"),
    "aud an object": lambda: good(aud={AUDIENCE: 1}),
    "sub missing": lambda: good(sub=None),
    "sub not a string": lambda: good(sub=17),
    "sub a list": lambda: good(sub=["ann"]),
    "sub empty": lambda: good(sub=""),
    "sub too long": lambda: good(sub="x" * 101),
    "sub not printable": lambda: good(sub="ann\x00"),
    "sub with spaces around": lambda: good(sub=" ann"),
    "sub half a character": lambda: good(sub="\ud800"),
    "plan unknown": lambda: good(plan="gold"),
    "plan not a string": lambda: good(plan=["max"]),
    "plan empty": lambda: good(plan=""),
    "a member twice in the header": lambda: duplicated('"alg":"HS256"'),
    "another alg after the first": lambda: duplicated('"alg":"none"'),
    "a claim twice": lambda: signed({"alg": "HS256"}, json.dumps(claims()).encode()[:-1] + b',"sub":"eve"}'),
    "the wrong secret": lambda: resigned("HS256", OTHER.encode()),
    "an empty secret": lambda: resigned("HS256", b""),
    "payload changed": lambda: ".".join([good().split(".")[0], part(claims(sub="eve")), good().split(".")[2]]),
    "header changed": lambda: ".".join([part({"alg": "HS256"}), *good().split(".")[1:]]),
    "signature empty": lambda: good().rpartition(".")[0] + ".",
    "signature cut": lambda: good()[:-1],
    "signature half": lambda: good()[:-20],
    "signature longer": lambda: good() + "AA",
    "signature's spare bits set": lambda: respelt(good()),
    "trailing bytes": lambda: good() + "=",
    "trailing part": lambda: good() + ".x",
    "trailing dot": lambda: good() + ".",
    "a space inside": lambda: good().replace(".", ". ", 1),
    "base64 of the other alphabet": lambda: good()[:-2] + "+/",
    "a byte over 127": lambda: good().encode() + b"\xe9",
    "two parts": lambda: ".".join(good().split(".")[:2]),
    "five parts": lambda: "a.b.c.d.e",
    "empty parts": lambda: "..",
    "words": lambda: "a.b.c",
    "header not JSON": lambda: signed(b"{", claims()),
    "header a list": lambda: signed(["HS256"], claims()),
    "header not UTF-8": lambda: signed(b'{"alg":"HS256","x":"\xff"}', claims()),
    "payload not JSON": lambda: signed({"alg": "HS256"}, b"exp"),
    "payload a list": lambda: signed({"alg": "HS256"}, [claims()]),
    "payload very deep": lambda: signed({"alg": "HS256"}, b"[" * 5000 + b"]" * 100),
    "payload with NaN": lambda: signed({"alg": "HS256"}, json.dumps(claims() | {"x": float("nan")}).encode()),
    "nested": lambda: signed({"alg": "HS256", "cty": "JWT"}, good().encode()),
    "twin of the first 20 bytes": twin,
}  # fmt: skip


def respelt(token: str) -> str:
    """The last character with bits that the decoder throws away: 32 bytes leave two of them."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def sized(length: int) -> str:
    """A well-signed token of exactly so many bytes; spaces in its header make up for lengths that base64 has not."""
    for spaces in range(4):
        head = part(b'{"alg":"HS256"' + b" " * spaces + b"}")
        room = length - len(head) - 2 - 43
        for padding in range(room * 3 // 4 - 200, room * 3 // 4):
            payload = part(claims(pad="x" * padding))
            if len(payload) == room:
                return signed(b'{"alg":"HS256"' + b" " * spaces + b"}", claims(pad="x" * padding))
    raise AssertionError(length)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_tampered_token_is_refused(hs256, name):
    assert ask(hs256, good()).status == 200, "what is tampered with is good"
    refused(hs256, MUTATIONS[name]())


def test_8_kib_is_still_a_token(hs256):
    token, longer = sized(8 * 1024), sized(8 * 1024 + 1)
    assert (len(token), len(longer)) == (8 * 1024, 8 * 1024 + 1)
    assert ask(hs256, token, "x-api-key: ").status == 200
    time.sleep(1.0)  # so that no failed login of another test makes it a 429
    answer = ask(hs256, longer, "x-api-key: ")
    assert (answer.status, answer.code) == (401, "AUTHENTICATION_ERROR")


def test_two_authorization_headers_are_no_request(hs256):
    assert ask(hs256, f"{good()}\r\nauthorization: Bearer {good()}").status == 400


def test_the_public_key_is_no_secret(rs256):
    """Signed with what everyone knows: the PEM text in all its spellings, as an HMAC's secret."""
    token = jwt.encode(claims(), RSA, "RS256")
    assert ask(rs256, token).status == 200
    text = pem(RSA)
    for secret in (text, text.strip(), text.replace(b"\n", b""), text.replace(b"\n", b"\r\n"), b""):
        refused(rs256, resigned("HS256", secret))
        refused(rs256, resigned("RS256", secret))
    key = {"kty": "RSA", "n": part(b"x" * 256), "e": "AQAB"}
    refused(rs256, jwt.encode(claims(), other_rsa(), "RS256", headers={"jwk": key}))
    refused(rs256, jwt.encode(claims(), RSA, "RS384"))
    refused(rs256, jwt.encode(claims(), RSA, "PS256"))
    refused(rs256, token[:-6] + "AAAAAA")


def test_without_the_table_there_are_no_tokens():
    with serving(PLANS) as waypost:
        refused(waypost, good())


# What a token's account and plan are


def test_accounts_are_created_only_where_the_table_says_so(tmp_path):
    text = table(f'secret = "{SECRET}"', "HS256").replace("create_accounts = true\n", "")
    with serving(text) as waypost:
        refused(waypost, good())
        assert cli(waypost, "accounts", "create", "ann", "--plan", "free") == "created ann on plan free"
        assert ask(waypost, good()).status == 200, "a refusal is forgotten when the account comes to be"
        cli(waypost, "accounts", "set", "ann", "--disabled")
        refused(waypost, good())
        refused(waypost, good(plan=None))
        cli(waypost, "accounts", "set", "ann", "--enabled")
        assert ask(waypost, good()).status == 200


def test_a_disabled_account_takes_its_tokens_with_it_at_once(hs256):
    tokens = [good(sub="carol", n=number) for number in range(3)]
    assert {ask(hs256, token).status for token in tokens} == {200}
    cli(hs256, "accounts", "set", "carol", "--disabled")
    for token in tokens:
        refused(hs256, token)
    cli(hs256, "accounts", "set", "carol", "--enabled")
    assert {ask(hs256, token).status for token in tokens} == {200}


def test_a_token_that_was_good_dies_when_it_expires(hs256):
    token = good(exp=int(time.time()) + 2)
    assert ask(hs256, token).status == 200
    with hs256.connect() as client:
        line = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode()
        statuses = set()
        deadline = time.monotonic() + 30
        while 401 not in statuses:
            assert time.monotonic() < deadline
            client.send(line)
            statuses.add(client.answer().status)
            time.sleep(0.05)
    assert statuses == {200, 401}, "on the same connection, whose head is known"
    refused(hs256, token)


def cli(waypost: Waypost, *words: str) -> str:
    """What a command prints."""
    import subprocess
    import sys

    command = [str(pathlib.Path(sys.executable).with_name("waypost")), *words]
    command += ["--config", str(waypost.folder / "waypost.toml"), "--data", str(waypost.folder / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_new_secret_makes_old_tokens_strangers():
    with serving(table(f'secret = "{SECRET}"', "HS256")) as waypost:
        old, new = good(), resigned("HS256", OTHER.encode())
        assert ask(waypost, old).status == 200
        refused(waypost, new)
        path = waypost.folder / "waypost.toml"
        path.write_text(path.read_text().replace(SECRET, OTHER))
        wait_until(lambda: ask(waypost, new).status == 200, "the new secret")
        refused(waypost, old)


# Key sets


class Keys:
    """A server of a key set: what it answers, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.status = 200
        self.document: bytes | None = None
        self.fetches = 0
        self.url = ""

    def add(self, private: Any, name: str | None, **members: Any) -> None:
        """Publish a key."""
        kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
        kind = next((kinds[each] for each in kinds if isinstance(private, each)), OKPAlgorithm)
        entry = kind.to_jwk(private.public_key(), as_dict=True)
        self.keys.append({**entry, **({"kid": name} if name is not None else {}), **members})


@contextlib.contextmanager
def key_server() -> Iterator[Keys]:
    """On a loopback port, in a thread."""
    keys = Keys()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.fetches += 1
            body = keys.document if keys.document is not None else json.dumps({"keys": keys.keys}).encode()
            self.send_response(keys.status)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    keys.url = f"http://127.0.0.1:{server.server_port}/keys?v=1"
    try:
        yield keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ELLIPTIC, EDWARDS = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()


def set_table(keys: Keys) -> str:
    return table(f'jwks = "{keys.url}"', 'RS256", "ES256", "EdDSA')


def named(private: Any, algorithm: str, name: str | None, **headers: Any) -> str:
    """A token that names its key."""
    return jwt.encode(claims(), private, algorithm, headers={**({"kid": name} if name else {}), **headers})


def test_a_key_set_is_fetched_once_and_a_storm_of_unknown_keys_changes_nothing():
    with key_server() as keys:
        keys.add(RSA, "r")
        keys.add(ELLIPTIC, "e", alg="ES256", use="sig")
        keys.add(EDWARDS, "d")
        with serving(set_table(keys)) as waypost:
            assert keys.fetches == 0, "nobody has asked yet"
            for token in (named(RSA, "RS256", "r"), named(ELLIPTIC, "ES256", "e"), named(EDWARDS, "EdDSA", "d")):
                assert ask(waypost, token).status == 200
            assert keys.fetches == 1
            for number in range(30):
                assert ask(waypost, named(RSA, "RS256", f"../{number}")).status in (401, 429)
            assert keys.fetches == 1
            assert ask(waypost, named(ELLIPTIC, "ES256", None)).status == 200, "the set leaves no choice"
            refused(waypost, named(RSA, "RS256", "e"))
            refused(waypost, named(ELLIPTIC, "ES256", "r"))
            refused(waypost, named(other_rsa(), "RS256", "r"))
            refused(waypost, signed({"alg": "HS256", "kid": "r"}, claims(), pem(RSA)))
            assert keys.fetches == 1


def test_a_set_s_key_serves_only_what_it_is_for():
    with key_server() as keys:
        keys.add(RSA, "ps only", alg="PS256")
        keys.add(RSA, "encrypts", use="enc")
        keys.add(RSA, "does not verify", key_ops=["encrypt"])
        keys.add(rsa.generate_private_key(65537, 1024), "short")
        keys.add(RSA, "twice")
        keys.add(other_rsa(), "twice")
        keys.add(RSA, "good")
        keys.keys += [
            {"kty": "oct", "kid": "oct", "k": part(SECRET.encode())},
            {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
            {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "AA", "y": "AA"},
            {"kty": 5},
        ]
        with serving(set_table(keys)) as waypost:
            assert ask(waypost, named(RSA, "RS256", "good")).status == 200
            for name in ("ps only", "encrypts", "does not verify", "short", "twice", "broken", None):
                refused(waypost, named(RSA, "RS256", name))
            refused(waypost, signed({"alg": "HS256", "kid": "oct"}, claims()))


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (500, None),
        (302, None),
        (200, b"not JSON"),
        (200, b"[]"),
        (200, b'{"keys": {}}'),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [' + b" " * 300_000 + b"]}"),
        (200, b'{"keys": ' + b"[" * 100_000),
    ],
)
def test_without_keys_a_token_may_be_good_and_is_503(status, document):
    with key_server() as keys:
        keys.add(RSA, "r")
        keys.status, keys.document = status, document
        with serving(set_table(keys)) as waypost:
            for _ in range(5):
                answer = ask(waypost, named(RSA, "RS256", "r"))
                assert (answer.status, answer.code, answer.header("retry-after")) == (503, "UNAVAILABLE", "1")
            assert keys.fetches == 1
            refused(waypost, good())
            refused(waypost, "a.b.c")
            assert ask(waypost, waypost.key).status == 200, "keys are not tokens"


def test_a_key_set_over_tls_needs_a_certificate_that_is_trusted():
    """The loopback server's authority is a stranger here: no keys, and no token passes."""
    authority = trustme.CA()
    with key_server() as keys:
        keys.add(RSA, "r")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        with serving(set_table(keys).replace("http://", "https://")) as waypost:
            assert ask(waypost, named(RSA, "RS256", "r")).status == 503
            assert keys.fetches == 0


# Failed logins


def test_the_eleventh_bad_credential_of_a_second_is_429_and_good_ones_pass():
    with serving(table(f'secret = "{SECRET}"', "HS256")) as waypost:
        bad = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer rk_%d\r\n\r\n"
        answers: list[Answer] = []
        with waypost.connect() as client:
            deadline = time.monotonic() + 30
            while not any(answer.status == 429 for answer in answers):
                assert time.monotonic() < deadline
                client.send(b"".join(bad % number for number in range(20)))
                answers += [client.answer() for _ in range(20)]
        assert [answer.status for answer in answers[:10]] == [401] * 10
        slowed = next(answer for answer in answers if answer.status == 429)
        assert (slowed.code, slowed.header("retry-after")) == ("TOO_MANY_FAILED_LOGINS", "1")
        assert slowed.header("x-should-retry") == "true"
        assert ask(waypost, waypost.key).status == 200
        assert ask(waypost, good()).status == 200


# The example


def test_the_example_of_plans_loads():
    from waypost import config

    path = pathlib.Path(__file__).parents[2] / "examples" / "plans" / "waypost.toml"
    settings = config.load(path, {"DEEPSEEK_API_KEY": "k", "WAYPOST_JWT_SECRET": SECRET})
    assert {name: plan.requests for name, plan in settings.plans.items()} == {
        "free": {"day": 50, "hour": 50, "minute": 100},
        "lite": {"day": 500, "minute": 100},
        "weekly": {"day": 1800, "hour": 500, "minute": 100},
        "premium": {"day": 1500, "hour": 500, "minute": 100},
        "max": {"day": 3000, "hour": 1000, "minute": 100},
        "ultra": {"day": 10_000, "hour": 1500, "minute": 100},
    }
    assert {plan.streams for plan in settings.plans.values()} == {50}
    assert settings.jwt is not None and settings.jwt.plan_claim == "plan"
    assert msgspec.structs.asdict(settings.plans["free"])["models"] != ("*",)
