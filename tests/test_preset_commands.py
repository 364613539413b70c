"""`waypost presets` as a shell sees it, with a server and without."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.test_cli import Shell, shell

__all__ = ["shell"]  # the fixture

TOML = """
slug = "coder"
name = "Coder"
model = "sim/demo"
system_prompt = "Be terse."
[params]
temperature = 0.25
stop = ["END"]
[cache]
ttl = 60
"""


def written(shell: Shell, name: str, text: str) -> str:
    path = shell.folder / name
    path.write_text(text)
    return str(path)


def test_a_preset_from_a_file_to_its_end(shell: Shell) -> None:
    key = shell.good("keys", "create", "--account", "ann", "--plan", "max").strip()
    ann = ("--account", "ann")
    made = shell.good("presets", "create", written(shell, "p.toml", TOML), *ann).strip()
    assert len(made) == 36
    shown = json.loads(shell.good("presets", "show", "coder", *ann))
    assert shown == {
        "slug": "coder",
        "name": "Coder",
        "visibility": "private",
        "model": "sim/demo",
        "system_prompt": "Be terse.",
        "params": {"temperature": 0.25, "stop": ["END"]},
        "cache": {"enabled": True, "ttl": 60},
    }
    changes = written(shell, "changes.json", '{"system_prompt": null, "params": {"seed": 1}, "visibility": "public"}')
    assert "version 2, public" in shell.good("presets", "update", made, changes, *ann)
    listed = shell.good("presets", "list", *ann)
    assert made in listed and "coder" in listed and "public" in listed
    versions = shell.good("presets", "versions", "coder", *ann).splitlines()
    assert "in use" in versions[1] and versions[2].split()[0] == "1"
    assert "version 1, public" in shell.good("presets", "update", "coder", "--version", "1", *ann)
    assert json.loads(shell.good("presets", "show", "coder", *ann)) == {**shown, "visibility": "public"}
    again = written(shell, "again.json", shell.good("presets", "show", "coder", "--version", "2", *ann))
    assert "coder" in shell.bad("presets", "create", again, *ann), "what is shown is what create takes"
    assert shell.good("explain", "@preset/coder:2", "--as", key).startswith(
        "@preset/coder:2 is the preset coder, version 2, for sim/demo, ordered"
    )
    assert shell.good("explain", f"presets/{made}").startswith(f"presets/{made} is the preset {made}, version 1")
    assert "--as KEY" in shell.bad("explain", "@preset/coder")
    assert "deleted coder" in shell.good("presets", "delete", "coder", *ann)
    assert "There is no such preset" in shell.bad("presets", "show", "coder", *ann)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.toml", "slug = ", "not valid TOML"),
        ("p.json", '{"slug": ', "not valid JSON"),
        ("p.json", "[]", "must be an object"),
        ("p.json", "{}", "slug: is required"),
        ("p.json", '{"slug": "a", "name": 5}', "name: must be a string"),
        ("p.json", '{"slug": "a", "visibility": "odd"}', "visibility: 'odd'"),
        ("p.json", '{"slug": "a", "odd": 1}', "odd: there is no such field"),
        ("p.json", '{"slug": "a", "params": {"temperature": 5}}', "params.temperature: "),
        ("p.toml", 'slug = "a"\nparams = { x = 2026-01-01 }', "params.x: JSON has no date"),
        ("p.toml", 'slug = "a"\nparams = { x = [1, inf] }', "params.x[1]: JSON has no inf"),
        ("p.json", '{"slug": "a", "params": {"x": NaN}}', "params.x: JSON has no nan"),
        ("p.json", '{"slug": "a", "name": ""}', "name: "),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: pathlib.Path, name: str, text: str, said: str) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "waypost.toml").write_text('[providers.sim]\nbase_url = "http://127.0.0.1:9/v1"\nkeys = ["k"]\n')
    shell.good("accounts", "create", "ann")
    assert said in shell.bad("presets", "create", written(shell, name, text), "--account", "ann")


def test_a_preset_through_a_pipe(tmp_path: pathlib.Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "waypost.toml").write_text('[providers.sim]\nbase_url = "http://127.0.0.1:9/v1"\nkeys = ["k"]\n')
    shell.good("accounts", "create", "ann")
    made = shell.run(
        "presets", "create", "/dev/stdin", "--account", "ann", said='{"slug": "a", "system_prompt": "Be terse."}'
    )
    assert (made.returncode, made.stderr, len(made.stdout)) == (0, "", 37), made
    changed = shell.run("presets", "update", "a", "/dev/stdin", "--account", "ann", said='{"params": {"seed": 1}}')
    assert changed.returncode == 0 and "is at version 2" in changed.stdout, changed
    shown = json.loads(shell.good("presets", "show", "a", "--account", "ann"))
    assert (shown["system_prompt"], shown["params"]) == ("Be terse.", {"seed": 1})


def test_missing_things_are_said(tmp_path: pathlib.Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "waypost.toml").write_text('[providers.sim]\nbase_url = "http://127.0.0.1:9/v1"\nkeys = ["k"]\n')
    assert "there is no account 'ann'" in shell.bad("presets", "list", "--account", "ann")
    assert "No such file" in shell.bad("presets", "create", "missing.toml", "--account", "ann")
