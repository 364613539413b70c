"""JSON as strangers write it, for hypothesis: odd white space, escaped names, duplicates, anything nested."""

from __future__ import annotations

import json

from hypothesis import strategies as st

NAMES = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "n",
    "tools",
    "x",
    'quo"te',
    "back\\slash",
    "a:b",
]

spaces = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n", "  "])
scalars = st.one_of(
    st.none().map(json.dumps),
    st.booleans().map(json.dumps),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(["1e5", "-0.0", "1.50", "1E-7", "0"]),
)


@st.composite
def strings(draw: st.DrawFn, text: st.SearchStrategy[str]) -> str:
    """A JSON string: each character plain or escaped in one of the ways that mean the same."""
    out = []
    for character in draw(text):
        unit = character.encode("utf-16-be")
        escaped = "".join(f"\\u{unit[i]:02x}{unit[i + 1]:02x}" for i in range(0, len(unit), 2))
        plain = json.dumps(character, ensure_ascii=False)[1:-1]
        out.append(draw(st.sampled_from([plain, plain, plain, escaped])))
    return f'"{"".join(out)}"'


texts = st.one_of(
    st.sampled_from([*NAMES, '"model":', '{"model":"x"}', "\\", '\\"', "[[[", "}}", "::", '"messages"', "é€😀"]),
    st.text(max_size=6).filter(lambda text: text.isprintable()),
)


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """An object, perhaps with duplicates, as text."""
    out = []
    for _ in range(draw(st.integers(0, 5))):
        name = draw(strings(st.sampled_from(NAMES)))
        out.append(f"{draw(spaces)}{name}{draw(spaces)}:{draw(spaces)}{draw(values)}{draw(spaces)}")
    return "{" + (",".join(out) or draw(spaces)) + "}"


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """An array as text."""
    out = [f"{draw(spaces)}{draw(values)}{draw(spaces)}" for _ in range(draw(st.integers(0, 4)))]
    return "[" + (",".join(out) or draw(spaces)) + "]"


leaves = st.one_of(scalars, strings(texts))
values = st.recursive(leaves, lambda inner: st.one_of(objects(inner), arrays(inner)), max_leaves=12)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A top-level object as bytes."""
    return f"{draw(spaces)}{draw(objects(values))}{draw(spaces)}".encode()
