"""The command line as a shell sees it: what is printed where, and the exit code."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.harness import provider, serving
from waypost import __version__
from waypost.keys import is_well_formed

PLANS = '[plans.free]\n[plans.max]\nmodels = ["sim/*"]\n'
KEY = re.compile(r"rk_[0-9a-f]{64}\n")


class Shell:
    """Runs `waypost` with a configuration and a data folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.options = ("--config", str(folder / "waypost.toml"), "--data", str(folder / "data"))

    def run(
        self, *words: str, options: tuple[str, ...] | None = None, said: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [str(pathlib.Path(sys.executable).with_name("waypost")), *words]
        return subprocess.run(
            [*command, *(self.options if options is None else options)],
            cwd=self.folder,
            env={**os.environ, "HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder / "home")},
            input=said,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def good(self, *words: str) -> str:
        """Standard output of a command that must succeed without a word on standard error."""
        done = self.run(*words)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def bad(self, *words: str) -> str:
        """The one line on standard error of a command that must fail."""
        done = self.run(*words)
        assert done.returncode == 2 and done.stdout == "", done
        assert done.stderr.startswith("waypost: ") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr


@pytest.fixture(params=["a running server", "no server"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """The same commands, through the keeper's socket and on the database itself."""
    config = provider("sim", "http://127.0.0.1:9/v1") + PLANS
    if request.param == "no server":
        with tempfile.TemporaryDirectory(prefix="waypost-") as name:
            (pathlib.Path(name) / "waypost.toml").write_text(config)
            yield Shell(pathlib.Path(name))
    else:
        with serving(config) as waypost:
            yield Shell(waypost.folder)


def rows(text: str) -> list[list[str]]:
    """A printed table's cells, the heading left out."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[1:]]


def mine(shell: Shell) -> list[list[str]]:
    """The rows of the account that these tests make; a running server has one of its own."""
    return [row for row in rows(shell.good("keys", "list")) if "shop" in row]


def test_keys_from_birth_to_death(shell: Shell) -> None:
    create = ("keys", "create", "--account", "shop", "--plan", "max")
    created = [shell.good(*create, "--label", label) for label in ("web", "worker", "cron")]
    assert all(KEY.fullmatch(key) and is_well_formed(key.strip().encode()) for key in created), (
        "the key and nothing else"
    )
    listed = mine(shell)
    assert [row[2:5] for row in listed] == [["shop", label, "inference"] for label in ("web", "worker", "cron")]
    assert [row[1] for row in listed] == [f"{key[:7]}…{key.strip()[-4:]}" for key in created]
    everything = shell.good("keys", "list", "--account", "shop")
    assert not any(key.strip() in everything for key in created)

    by_id, by_shown, by_key = listed[0][0], created[1][:7], created[2].strip()
    for name, label in ((by_id, "web"), (by_shown, "worker"), (by_key, "cron")):
        told = shell.good("keys", "revoke", name)
        assert re.fullmatch(rf"revoked rk_.{{4}}….{{4}} \(id \d+, account shop, {label}\)\n", told)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row[6]) for row in mine(shell)), "each has its day of death"

    management = shell.good("keys", "create", "--account", "shop", "--management")
    assert management.startswith("rkm_") and is_well_formed(management.strip().encode())


def test_accounts(shell: Shell) -> None:
    assert shell.good("accounts", "create", "shop", "--plan", "free") == "created shop on plan free\n"
    assert shell.good("accounts", "set", "shop", "--plan", "max") == "shop is on plan max\n"
    assert shell.good("accounts", "set", "shop", "--disabled") == "shop is on plan max, disabled\n"
    listed = next(row for row in rows(shell.good("accounts", "list")) if row[0] == "shop")
    assert listed[1:3] == ["max", "0"] and listed[-1] == "disabled"
    refused = shell.bad("keys", "create", "--account", "shop")
    # The fix that an error names must be a fix: what it says to type is typed.
    fix = re.search(r"waypost (accounts set shop \S+)", refused)
    assert fix is not None and "disabled" in refused
    assert shell.good(*fix[1].split()) == "shop is on plan max\n"
    assert KEY.fullmatch(shell.good("keys", "create", "--account", "shop"))


def test_a_key_s_limits(shell: Shell) -> None:
    terms = ("--daily-limit", "20", "--minute-limit", "5", "--spend-limit", "5.00", "--spend-window", "day")
    more = ("--label", "desk", "--models", "sim/a*, sim/b", "--balance", "2.50", "--expires", "2199-12-31")
    shell.good("keys", "create", "--account", "Ed", "--plan", "max", *terms, *more)
    (line,) = [line for line in shell.good("keys", "list", "--account", "Ed").splitlines() if "desk" in line]
    identity = line.split()[0]
    assert "sim/a*, sim/b; 5 a minute; 20 a day; $5.00 a day" in line
    assert "$2.50" in line and "2199-12-31 00:00" in line
    said = shell.good("keys", "set", identity, "--daily-limit", "none", "--models", "none", "--balance", "3")
    assert said.endswith("desk): 5 a minute; $5.00 a day; $3.00 left; until 2199-12-31 00:00 UTC\n")
    lifted = ("--minute-limit", "none", "--spend-limit", "none", "--spend-window", "none", "--balance", "none")
    said = shell.good("keys", "set", identity, *lifted, "--expires", "none", "--label", "home")
    assert said.endswith("home): no limits of its own\n")
    for words, why in [
        (("--models", "gpt-*"), "models: 'gpt-*' goes beyond plan 'max', which has sim/*"),
        (("--expires", "soon"), "--expires: 'soon' is neither a time from now, such as 30d, nor a date"),
        (("--expires", "2020-01-01"), "expires_at: in the past"),
        (("--daily-limit", "many"), "--daily-limit: 'many' is not a number of requests"),
        (("--spend-limit", "1e3"), "--spend-limit: '1e3' is not an amount in US dollars, such as 2.50"),
        (("--spend-window", "week"), "--spend-window: 'week' is not one of day, month, total"),
        (("--spend-limit", "5"), "spend_window: missing"),
        ((), "nothing to change"),
    ]:
        assert shell.bad("keys", "set", identity, *words).startswith(f"waypost: {why}")


def test_an_account_s_credit(shell: Shell) -> None:
    shell.good("accounts", "create", "Flo", "--plan", "free")
    assert "is not prepaid" in shell.bad("accounts", "credit", "Flo", "--add", "5.00")
    said = shell.good("accounts", "credit", "Flo", "--add", "5.00", "--prepaid")
    assert said == "Flo has $5.00 left of $5.00 ever paid in\n"
    assert shell.good("accounts", "credit", "Flo", "--add=-1.50").startswith("Flo has $3.50 left")
    (line,) = [line for line in shell.good("accounts", "list").splitlines() if "Flo" in line]
    assert line.split()[:5] == ["Flo", "free", "0", "$3.50", "$3.50"]
    assert "--add: 'five' is not an amount" in shell.bad("accounts", "credit", "Flo", "--add", "five")
    assert shell.good("accounts", "credit", "Flo", "--postpaid") == "Flo is not prepaid\n"


def test_mistakes_are_one_clear_line(shell: Shell) -> None:
    assert "plan 'gold' is not in the config; it has: free, max" in shell.bad(
        "keys", "create", "--account", "shop", "--plan", "gold"
    )
    assert "say which plan" in shell.bad("keys", "create", "--account", "shop")
    assert "there is no account 'nobody'" in shell.bad("keys", "list", "--account", "nobody")
    assert "there is no account 'nobody'" in shell.bad("accounts", "set", "nobody", "--plan", "max")
    assert "nothing to change" in shell.bad("accounts", "set", "nobody")
    assert "no such key" in shell.bad("keys", "revoke", "rk_ffff")
    assert "mistyped" in shell.bad("keys", "revoke", "rk_" + "0" * 64)
    shell.good("accounts", "create", "shop", "--plan", "free")
    assert "exists already" in shell.bad("accounts", "create", "shop", "--plan", "free")
    assert "waypost accounts set shop --plan max" in shell.bad("keys", "create", "--account", "shop", "--plan", "max")


# Without a keeper or a database


@pytest.fixture
def alone(tmp_path: pathlib.Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server\n", "not valid TOML"),
        ('[server]\nlisten = "x"\n', "[server] listen: 'x' is not an address"),
        ('[providers.lab]\nkeys = ["env:NO_SUCH_VARIABLE"]\nbase_url = "http://x"\n', "NO_SUCH_VARIABLE is not set"),
        (
            '[providers.lab]\nkeys = ["k"]\nbase_url = "https://x"\nca = "/no/such.pem"\n',
            "[providers.lab] ca: /no/such.pem",
        ),
        ('[server]\ntls = { certificate = "/no/such.pem", key = "/no/such.pem" }\n', "[server] tls: "),
    ],
)
def test_a_bad_configuration_ends_serve(alone: Shell, text: str, said: str) -> None:
    (alone.folder / "waypost.toml").write_text(text)
    done = alone.run("serve", "--listen", "127.0.0.1:0")
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"waypost: {alone.folder}/waypost.toml: "), done.stderr


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of PEM files: a certificate and its key, another's key, the key under a password, and no PEM at all."""
    folder = tmp_path_factory.mktemp("pems")
    authority = trustme.CA()
    ours, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    ours.cert_chain_pems[0].write_to_path(str(folder / "certificate"))
    ours.private_key_pem.write_to_path(str(folder / "key"))
    other.private_key_pem.write_to_path(str(folder / "other"))
    locked = load_pem_private_key(ours.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    (folder / "locked").write_bytes(locked)
    (folder / "junk").write_text("junk")
    return folder


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("none", "key", "certificate: PEMS/none: No such file or directory"),
        ("certificate", "none", "key: PEMS/none: No such file or directory"),
        (".", "key", "certificate: PEMS/.: Is a directory"),
        ("junk", "key", "certificate: PEMS/junk: no PEM certificate in it"),
        ("key", "key", "certificate: PEMS/key: no PEM certificate in it"),
        ("certificate", "junk", "key: PEMS/junk: no PEM private key, or one under a password"),
        ("certificate", "locked", "key: PEMS/locked: no PEM private key, or one under a password"),
        ("certificate", "other", "key: PEMS/other: not the key of the certificate in PEMS/certificate"),
    ],
)
def test_a_bad_certificate_is_named(alone: Shell, pems: pathlib.Path, certificate: str, key: str, said: str) -> None:
    (alone.folder / "waypost.toml").write_text(
        f'[server]\ntls = {{ certificate = "{pems}/{certificate}", key = "{pems}/{key}" }}\n'
    )
    done = alone.run("serve", "--listen", "127.0.0.1:0")
    expected = f"waypost: {alone.folder}/waypost.toml: [server] tls: {said.replace('PEMS', str(pems))}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert not (alone.folder / "data").exists(), "nothing has been started"


def test_bad_authorities_are_named(alone: Shell, pems: pathlib.Path) -> None:
    (alone.folder / "waypost.toml").write_text(
        provider("a.b", "https://x").replace("a.b", '"a.b"') + f'ca = "{pems}/key"\n'
    )
    said = alone.bad("serve", "--listen", "127.0.0.1:0")
    assert f'waypost.toml: [providers."a.b"] ca: {pems}/key: no PEM certificate in it\n' in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "--listen", "nowhere"], "'nowhere' is not an address"),
        (["serve", "--listen", "192.0.2.1:8080"], "cannot listen on 192.0.2.1:8080: Cannot assign"),
        (["serve", "--config", "none.toml"], "none.toml: No such file"),
        (["serve", "--data", "/dev/null/x"], "/dev/null/x"),
        (["models", "--config", "none.toml"], "none.toml: No such file"),
        (["keys", "list", "--config", "none.toml"], "none.toml: No such file"),
        (["sim", "--listen", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_end_with_one_line(alone: Shell, words: list[str], said: str) -> None:
    done = alone.run(*words, options=())
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("waypost: ") and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


COMMANDS = [
    [],
    ["serve"],
    ["sim"],
    ["models"],
    ["keys"],
    ["keys", "create"],
    ["keys", "list"],
    ["keys", "revoke"],
    ["accounts"],
    ["accounts", "create"],
    ["accounts", "set"],
    ["accounts", "list"],
]


def test_every_command_has_help(alone: Shell) -> None:
    for words in COMMANDS:
        done = alone.run(*words, "--help", options=())
        assert done.returncode == 0 and done.stderr == "", words
        assert " ".join(["Usage: waypost", *words]) in done.stdout
    assert alone.run("--version", options=()).stdout.strip() == __version__
    unknown = alone.run("sreve", options=())
    assert unknown.returncode != 0 and "sreve" in unknown.stdout + unknown.stderr
    assert not list(alone.folder.iterdir()), "help leaves nothing behind"


def test_models(alone: Shell) -> None:
    (alone.folder / "waypost.toml").write_text(
        provider("lab", "http://127.0.0.1:9/v1")
        + '[models."route/x"]\nchain = ["lab/a", "lab/b"]\ncontext = 128000\nprice = { input = "0.28", output = "1" }\n'
    )
    assert rows(alone.good("models")) == [["route/x", "lab/a → lab/b", "128,000", "0.28", "1"]]
    here = alone.run("models", options=())
    assert "route/x" in here.stdout, "waypost.toml in the folder is found by itself"


def test_the_data_folder_is_made_where_it_is_missing(alone: Shell) -> None:
    (alone.folder / "waypost.toml").write_text("")
    created = [alone.good("keys", "create", "--account", "a", "--plan", "all") for _ in range(2)]
    assert created[0] != created[1]
    assert [row[2] for row in rows(alone.good("keys", "list"))] == ["a", "a"]
    assert (alone.folder / "data").stat().st_mode & 0o777 == 0o700
    assert not any(key.strip().encode() in (alone.folder / "data" / "waypost.db").read_bytes() for key in created)


# explain


EXPLAINED = """
[providers.one]
base_url = "http://127.0.0.1:1/v1"
keys = ["a", "b"]
[providers.two]
base_url = "http://127.0.0.1:1/v1"
keys = ["c"]
[models."route/x"]
chain = ["one/big", "two/big"]
strategy = "price"
prices = { "one/big" = { input = "2", output = "2" }, "two/big" = { input = "0", output = "0" } }
models = ["route/y"]
[models."route/y"]
chain = ["two/small"]
[models."route/drawn"]
chain = ["one/big", "two/big"]
strategy = "weighted"
weights = [3, 0]
models = ["route/x"]
[plans.all]
[plans.limited]
requests = { day = 5 }
tokens = { day = 4100 }
[plans.none]
models = ["route/z"]
"""


@pytest.fixture
def routes(tmp_path: pathlib.Path) -> Shell:
    (tmp_path / "waypost.toml").write_text(EXPLAINED)
    return Shell(tmp_path)


def test_explain_shows_the_order_and_who_is_left_out(routes: Shell) -> None:
    rows = [line.split() for line in routes.good("explain", "route/x").splitlines()]
    assert [row[:4] for row in rows if row[0] == "1"] == [["1", "two", "1", "big"]]
    assert {tuple(row[1:4]) for row in rows if row[0] in ("2", "3")} == {("one", "1", "big"), ("one", "2", "big")}
    assert [row[1:5] for row in rows if row[0] == "4"] == [["two", "1", "small", "route/y"]]
    free = routes.good("explain", "route/x:free")
    assert free.count("free not free") == 3
    assert "INVALID_MODEL" in routes.bad("explain", "route/none")


def test_explain_shows_what_it_costs_and_how_often_it_is_drawn(routes: Shell) -> None:
    told = routes.good("explain", "route/x:nitro").splitlines()
    assert "tokens of answer" not in told[0], "the price of route/y is not known"
    assert [line.split()[5:] for line in told if " two " in line and "route/x" in line] == [["0", "0", "closed"]]
    assert ", up to $0.00 for" in routes.good("explain", "route/x:free").splitlines()[0]
    drawn = [line.split() for line in routes.good("explain", "route/drawn").splitlines()]
    weighted = [(row[1], " ".join(row[5:-1])) for row in drawn if row[4] == "route/drawn"]
    assert sorted(weighted) == [("one", "3, key 1"), ("one", "3, key 1"), ("two", "0")]
    assert [row[5:] for row in drawn if row[4] == "route/y"] == [["closed"]]


def test_explain_as_a_key_says_what_its_limits_would(routes: Shell) -> None:
    routes.good("accounts", "create", "bea", "--plan", "limited")
    routes.good("accounts", "credit", "bea", "--add", "2.5", "--prepaid")
    routes.good("keys", "create", "--account", "bea", "--minute-limit", "7")
    told = routes.good("explain", "route/x:free", "--as", "1").splitlines()
    rows = [line.split() for line in told]
    assert ["requests/day", "5", "5", "1"] in rows and ["requests/minute", "7", "7", "1"] in rows
    assert ["money/total", "$2.50", "$2.50", "$0.00"] in rows
    assert told[-1] == "Its limits would admit a short question."
    told = routes.good("explain", "route/x", "--as", "1").splitlines()
    assert told[-1].startswith("MODEL_NOT_PRICED: two/small has no price"), "money is limited, and route/y may be tried"
    routes.good("accounts", "credit", "bea", "--postpaid")
    assert "$2.50" not in routes.good("explain", "route/x", "--as", "1")


def test_explain_as_a_key_obeys_its_plan(routes: Shell) -> None:
    routes.good("keys", "create", "--account", "ann", "--plan", "none")
    assert "MODEL_NOT_ALLOWED" in routes.bad("explain", "route/x", "--as", "1")
    assert "NOT_FOUND" in routes.bad("explain", "route/x", "--as", "99")
