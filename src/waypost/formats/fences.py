"""A JSON object that a model was asked for in words, without the ``` that it may have put around it."""

from __future__ import annotations

import re

FENCE = "```"
CLOSING = re.compile(r"\s*`{0,3}\s*\Z")


class Fences:
    """Text in pieces → the same without a fence at its beginning and end. Owned by one answer."""

    def __init__(self) -> None:
        self._held = ""
        self._is_begun = False
        self._is_fenced = False

    def feed(self, text: str) -> str:
        """What is certain to be inside."""
        text = self._held + text
        self._held = ""
        if not self._is_begun:
            start = text.lstrip()
            if FENCE.startswith(start[:3]) and (len(start) < len(FENCE) or "\n" not in start):
                self._held = text  # it may yet become a fence, or its line is not complete
                return ""
            self._is_begun = True
            self._is_fenced = start.startswith(FENCE)
            if self._is_fenced:
                text = start.partition("\n")[2]
        if not self._is_fenced:
            return text
        closing = CLOSING.search(text)
        at = closing.start() if closing is not None else len(text)
        self._held = text[at:]
        return text[:at]

    def end(self) -> str:
        """What was held back and is no fence."""
        held, self._held = self._held, ""
        return "" if self._is_fenced and held.strip() in ("", FENCE) else held
