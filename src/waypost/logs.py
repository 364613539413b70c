"""The log: lines on standard error, as text or as JSON, and never a key of ours in them."""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Literal, TextIO

import msgspec

TEXT = "%(asctime)s %(name)s %(levelname)s %(message)s"
SECRETS = re.compile(r"\b(rkm?_[0-9a-f]{4})[0-9a-f]{4,}|(?<=Bearer )[!-~]{8,}|\beyJ[\w-]{4,}\.[\w-]+\.[\w-]*")
"""Keys, credentials and tokens. Nothing here logs them; this is for the message that quotes what it should not."""

_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(how: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Everything from INFO on goes to standard error, or to `stream`, in this format; a later call replaces it."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if how == "json" else TextFormatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def redact(text: str) -> str:
    """The text with keys cut to what listings show of them."""
    return SECRETS.sub(lambda match: f"{match[1] or ''}…", text)


class TextFormatter(logging.Formatter):
    """A line, and the traceback below it where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Part of logging.Formatter."""
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """An object on one line: `time` (UTC), `level`, `logger`, `pid`, `message`, what `extra` names, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Part of logging.Formatter."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": redact(record.getMessage()),
        }
        for name, value in vars(record).items():
            if name not in _KNOWN and name not in line:
                line[name] = redact(str(value))
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return msgspec.json.encode({name: clean(value) for name, value in line.items()}).decode()


def clean(value: object) -> object:
    """Text that JSON can hold: a lone surrogate, as of a file's name, becomes a question mark."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
