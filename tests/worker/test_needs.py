"""Parts of messages, seen without reading them: a model that does not take one is passed over, a text is no part."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from waypost.formats.format import Model, Unsupported
from waypost.worker.needs import PARTS, check_needs, find_parts

BLIND = Model(id="blind", inputs=frozenset({"text"}))


def messages(content: Any, **spaces: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps([{"role": "user", "content": content}], **spaces).encode())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", " : ")])
def test_a_part_by_its_type(part: bytes, separators: tuple[str, str]) -> None:
    kind, modality = part.decode(), PARTS[part]
    said = messages([{"type": "text", "text": "Hello"}, {"type": kind, kind: {}}], separators=separators)
    assert find_parts(said) == [part]
    check_needs({"messages": said}, Model(id="sees", inputs=frozenset({modality})))
    with pytest.raises(Unsupported, match=f"blind does not take {modality}"):
        check_needs({"messages": said}, BLIND)


@pytest.mark.parametrize("part", PARTS)
def test_a_text_is_no_part(part: bytes) -> None:
    kind = part.decode()
    for text in (kind, f'"type": "{kind}"', f'{{"type":"{kind}"}}'):
        check_needs({"messages": messages(text)}, BLIND)
    check_needs({"messages": messages([{"type": "text", "text": kind, kind: {}}])}, BLIND)
