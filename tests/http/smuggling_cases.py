"""Requests that two parsers might cut in two ways, and some that only look so: bytes, and what becomes of them.

Each case is one connection's first bytes. `outcome` is `served` (a 200 with our own nonce, one request upstream),
`refused` (only 4xx, then closed, nothing upstream), or a status: answered with it, in sync or closed behind it, nothing
upstream. `EVIL` is a whole request that hides in a body; it must never reach the upstream.
"""

from __future__ import annotations

import msgspec

KEY = b"K" * 67  # stands for a key; replaced by the test, like the nonces, with as many bytes
NONCE = b"nonce:case-00000000"
EVIL_NONCE = b"nonce:evil-00000000"

START = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"host: waypost\r\n"
CREDENTIAL = b"authorization: Bearer %b\r\n" % KEY
BODY = b'{"model":"sim/demo","messages":[{"role":"user","content":"%b"}]}' % NONCE
EVIL_BODY = BODY.replace(NONCE, EVIL_NONCE)
LENGTH = b"content-length: %d" % len(BODY)
EVIL = START + HOST + CREDENTIAL + b"content-length: %d\r\n\r\n" % len(EVIL_BODY) + EVIL_BODY


class Case(msgspec.Struct, frozen=True):
    name: str
    data: bytes
    outcome: str | int


def case(
    name: str, outcome: str | int, *lines: bytes, body: bytes = BODY, start: bytes = START, host: bytes = HOST
) -> Case:
    head = b"".join(line + b"\r\n" for line in lines)
    return Case(name, start + host + CREDENTIAL + head + b"\r\n" + body, outcome)


def chunk(data: bytes, size: bytes | None = None, after: bytes = b"\r\n") -> bytes:
    return (b"%x" % len(data) if size is None else size) + b"\r\n" + data + after


LAST = b"0\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked"
WHOLE = chunk(BODY) + LAST
HIDDEN = LAST + EVIL  # nothing to a reader of chunks, a request behind it; a body to a reader of lengths
HIDDEN_LENGTH = b"content-length: %d" % len(HIDDEN)

CONTENT_LENGTH = [
    case("plain", "served", LENGTH),
    case("length twice, the same", "refused", LENGTH, LENGTH),
    case("length twice, the second shorter", "refused", LENGTH, b"content-length: 3"),
    case("length twice, the first shorter", "refused", b"content-length: 3", LENGTH),
    case("length twice, one of them 0", "refused", b"content-length: 0", LENGTH),
    case("length twice in two cases", "refused", b"Content-Length: %d" % len(BODY), b"CONTENT-LENGTH: 3"),
    case("name in capitals", "served", LENGTH.upper()),
    case("no space after the colon", "served", LENGTH.replace(b" ", b"")),
    case("length 0 before a request", 400, b"content-length: 0", body=b""),
    *(
        case(f"length {value!r}", outcome, b"content-length:" + value)
        for value, outcome in (
            (b" %d, %d" % (len(BODY), len(BODY)), "refused"),
            (b" %d, 3" % len(BODY), "refused"),
            (b" +%d" % len(BODY), "refused"),
            (b" -%d" % len(BODY), "refused"),
            (b" -1", "refused"),
            (b" 0x%x" % len(BODY), "refused"),
            (b" %x" % 0xABC, "refused"),
            (b"   %d" % len(BODY), "served"),
            (b"\t%d" % len(BODY), "served"),
            (b" %d  " % len(BODY), "served"),
            (b" %d\t" % len(BODY), "served"),
            (b" %d %d" % (len(BODY), len(BODY)), "refused"),
            (b" 6 9", "refused"),
            (b"", "refused"),
            (b" ", "refused"),
            (b" %d.0" % len(BODY), "refused"),
            (b" %de0" % len(BODY), "refused"),
            (b" 6_9", "refused"),
            (b" 000%d" % len(BODY), "served"),
            (b" \xb2\xb3", "refused"),
            (b" \xd9\xa6", "refused"),
            (b" %d;" % len(BODY), "refused"),
            (b' "%d"' % len(BODY), "refused"),
            (b" %d" % (2**64 + len(BODY)), "refused"),
            (b" %d" % 2**64, "refused"),
            (b" " + b"9" * 40, "refused"),
            (b" %d" % (2**63), "refused"),
            (b" %d" % (2**32 + len(BODY)), "refused"),
            (b"\x0b%d" % len(BODY), "refused"),
            (b"\x0c%d" % len(BODY), "refused"),
            (b" \x00%d" % len(BODY), "refused"),
            (b" %d\x00" % len(BODY), "refused"),
            (b"\r\n %d" % len(BODY), "refused"),
            (b" 6\r\n 9", "refused"),
        )
    ),
    case("space before the colon", "refused", b"content-length : %d" % len(BODY)),
    case("tab before the colon", "refused", b"content-length\t: %d" % len(BODY)),
    case("space before the name", "refused", b" content-length: %d" % len(BODY)),
    case("underscore in the name: no body, garbage behind", "refused", b"content_length: %d" % len(BODY)),
    case("NUL in the name", "refused", b"content-\x00length: %d" % len(BODY)),
    case("length shorter than the body", "refused", b"content-length: %d" % (len(BODY) - 5)),
]

BOTH = [
    case("length and chunks that agree", "refused", b"content-length: %d" % len(WHOLE), CHUNKED, body=WHOLE),
    case("chunks and length that agree", "refused", CHUNKED, b"content-length: %d" % len(WHOLE), body=WHOLE),
    case("length hides a request from chunks", "refused", HIDDEN_LENGTH, CHUNKED, body=HIDDEN),
    case("the same, chunks first", "refused", CHUNKED, HIDDEN_LENGTH, body=HIDDEN),
    case("chunks hide a request from length", "refused", b"content-length: 4", CHUNKED, body=chunk(EVIL) + LAST),
    case("length 0 and chunks", "refused", b"content-length: 0", CHUNKED, body=chunk(EVIL) + LAST),
    case("two lengths and chunks", "refused", LENGTH, LENGTH, CHUNKED, body=WHOLE),
]

ENCODINGS: tuple[tuple[bytes, str], ...] = (
    # What follows the name `transfer-encoding`, and what becomes of a sound chunked body under it
    (b": chunked", "served"),
    (b": Chunked", "served"),
    (b": CHUNKED", "served"),
    (b":chunked", "served"),
    (b":  chunked", "served"),
    (b":\tchunked", "served"),
    (b": chunked ", "served"),
    (b": chunked\t", "refused"),
    (b": xchunked", "refused"),
    (b": chunkedx", "refused"),
    (b": chunke", "refused"),
    (b": chunk", "refused"),
    (b": chunked x", "refused"),
    (b": x chunked", "refused"),
    (b": chunked chunked", "refused"),
    (b": chunked, chunked", "refused"),
    (b": chunked, identity", "refused"),
    (b": identity, chunked", "refused"),
    (b": identity", "refused"),
    (b": chunked, gzip", "refused"),
    (b": gzip, chunked", "refused"),
    (b": cow, chunked", "refused"),
    (b": chunked, cow", "refused"),
    (b": cow", "refused"),
    (b": gzip", "refused"),
    (b": chunked;q=1", "refused"),
    (b": chunked; foo=bar", "refused"),
    (b': "chunked"', "refused"),
    (b": 'chunked'", "refused"),
    (b": chunked,", "refused"),
    (b": ,chunked", "refused"),
    (b": ;chunked", "refused"),
    (b":", "refused"),
    (b": \x0bchunked", "refused"),
    (b":\x0bchunked", "refused"),
    (b": \x0cchunked", "refused"),
    (b": chunked\x0b", "refused"),
    (b": \x00chunked", "refused"),
    (b": chunked\x00", "refused"),
    (b": chun\x00ked", "refused"),
    (b": \xa0chunked", "refused"),
    (b": chunked\xa0", "refused"),
    (b": chun\xc4\xb7ed", "refused"),
    (b": \xef\xbb\xbfchunked", "refused"),
    (b": chunked\r", "refused"),
    (b": chunked\n", "refused"),
    (b": chunked\r\r", "refused"),
    (b":\r\n chunked", "refused"),
    (b":\n chunked", "refused"),
    (b": chunked\r\n ", "refused"),
    (b": chunked\r\n identity", "refused"),
    (b": identity\r\n chunked", "refused"),
    (b" : chunked", "refused"),
    (b"\t: chunked", "refused"),
    (b"\x0b: chunked", "refused"),
    (b"\x00: chunked", "refused"),
    (b"\r\n: chunked", "refused"),
    (b"\n: chunked", "refused"),
    (b"\\: chunked", "refused"),
    (b"; chunked", "refused"),
    (b" chunked", "refused"),
    (b": chunked\r\ntransfer-encoding: chunked", "refused"),
    (b": chunked\r\ntransfer-encoding: identity", "refused"),
    (b": identity\r\ntransfer-encoding: chunked", "refused"),
    (b": chunked\r\ntransfer-encoding: cow", "refused"),
    (b": cow\r\ntransfer-encoding: chunked", "refused"),
    (b": chunked\r\ntransfer-encoding:", "refused"),
    (b":\r\ntransfer-encoding: chunked", "refused"),
)
TRANSFER_ENCODING = [
    *(case(f"encoding{v!r}", outcome, b"transfer-encoding" + v, body=WHOLE) for v, outcome in ENCODINGS),
    *(
        case(f"encoding{v!r} and a length", "refused", b"transfer-encoding" + v, HIDDEN_LENGTH, body=HIDDEN)
        for v, _ in ENCODINGS
        if v not in (b"\\: chunked", b"; chunked", b" chunked")
    ),
    case("encoding behind a bare CR", "refused", b"x: y\rtransfer-encoding: chunked", HIDDEN_LENGTH, body=HIDDEN),
    case("encoding behind a bare LF", "refused", b"x: y\ntransfer-encoding: chunked", HIDDEN_LENGTH, body=HIDDEN),
    case("encoding behind a space", "refused", b" transfer-encoding: chunked", HIDDEN_LENGTH, body=HIDDEN),
    case("underscore: the length decides", 400, b"transfer_encoding: chunked", HIDDEN_LENGTH, body=HIDDEN),
    case("underscore and no length", "refused", b"transfer_encoding: chunked", body=WHOLE),
    case("chunks in HTTP/1.0", "refused", CHUNKED, body=WHOLE, start=START.replace(b"1.1", b"1.0")),
    case(
        "chunks hidden in HTTP/1.0", "refused", CHUNKED, HIDDEN_LENGTH, body=HIDDEN, start=START.replace(b"1.1", b"1.0")
    ),
]

HALVES = chunk(BODY[:10]) + chunk(BODY[10:])
SIZE = b"%x" % len(BODY)
BYTEWISE = chunk(NONCE).join(b"".join(chunk(bytes((b,))) for b in part) for part in BODY.split(NONCE))
CHUNKS = [
    case("two chunks", "served", CHUNKED, body=HALVES + LAST),
    case("one byte a chunk", "served", CHUNKED, body=BYTEWISE + LAST),
    *(
        case(f"chunk size {size[:40]!r} of {len(size)} bytes", outcome, CHUNKED, body=chunk(BODY, size) + LAST)
        for size, outcome in (
            (SIZE.upper(), "served"),
            (b"000" + SIZE, "served"),
            (b"0x" + SIZE, "refused"),
            (b"0X" + SIZE, "refused"),
            (b"+" + SIZE, "refused"),
            (b"-" + SIZE, "refused"),
            (b"-1", "refused"),
            (b"_" + SIZE, "refused"),
            (SIZE[:1] + b"_" + SIZE[1:], "refused"),
            (SIZE + b"_", "refused"),
            (b" " + SIZE, "refused"),
            (b"\t" + SIZE, "refused"),
            (SIZE + b" ", "refused"),
            (SIZE + b"\t", "refused"),
            (SIZE + b"\x00", "refused"),
            (b"", "refused"),
            (b"g", "refused"),
            (b"zz", "refused"),
            (b"'" + SIZE, "refused"),
            (SIZE + b".0", "refused"),
            (b"ffffffffffffffff", "refused"),
            (b"10000000000000000", "refused"),
            (b"1" + b"0" * 14 + SIZE, "refused"),
            (b"100000000" + SIZE, "refused"),
            (b"fffffffffffffffff" + SIZE, "refused"),
            (SIZE + b";a", "served"),
            (SIZE + b";a=b", "served"),
            (SIZE + b';a="b c"', "served"),
            (SIZE + b";a=b;c=d", "served"),
            (SIZE + b";" + b"a" * 900, "served"),
            (SIZE + b";a=" + b"b" * 1_000_000, "refused"),
            (SIZE + b";a\nb", "refused"),
            (SIZE + b";a\rb", "refused"),
            (SIZE + b';a="\n', "refused"),
            (SIZE + b"\n", "refused"),
            (SIZE + b"\r", "refused"),
        )
    ),
    case("LF alone after a size", "refused", CHUNKED, body=SIZE + b"\n" + BODY + b"\r\n" + LAST),
    case("CR alone after a size", "refused", CHUNKED, body=SIZE + b"\r" + BODY + b"\r\n" + LAST),
    case("no line end after a chunk", "refused", CHUNKED, body=chunk(BODY, after=b"") + LAST),
    case("LF alone after a chunk", "refused", CHUNKED, body=chunk(BODY, after=b"\n") + LAST),
    case("CR alone after a chunk", "refused", CHUNKED, body=chunk(BODY, after=b"\r") + LAST),
    case("two line ends after a chunk", "refused", CHUNKED, body=chunk(BODY, after=b"\r\n\r\n") + LAST),
    case("other bytes after a chunk", "refused", CHUNKED, body=chunk(BODY, after=b"XX") + LAST),
    case("a chunk longer than its size", "refused", CHUNKED, body=chunk(BODY, b"5") + LAST),
    case("a last chunk without its empty line", "refused", CHUNKED, body=chunk(BODY) + b"0\r\n"),
    case("a last chunk with LF alone", "refused", CHUNKED, body=chunk(BODY) + b"0\n\n"),
    case("a last chunk, LF alone at the very end", "refused", CHUNKED, body=chunk(BODY) + b"0\r\n\n"),
    case("a last chunk of many zeros", "served", CHUNKED, body=chunk(BODY) + b"0000\r\n\r\n"),
    case("an extension on the last chunk", "served", CHUNKED, body=chunk(BODY) + b"0;a=b\r\n\r\n"),
    case("a trailer", "served", CHUNKED, body=chunk(BODY) + b"0\r\nx-checksum: 1\r\n\r\n"),
    case("a trailer like a header", "served", CHUNKED, body=chunk(BODY) + b"0\r\nauthorization: Bearer x\r\n\r\n"),
    case("a second Host as a trailer", "served", CHUNKED, body=chunk(BODY) + b"0\r\nhost: evil\r\n\r\n"),
    case("a length as a trailer", "refused", CHUNKED, body=chunk(BODY) + b"0\r\ncontent-length: 5\r\n\r\n"),
    case("chunks as a trailer", "refused", CHUNKED, body=chunk(BODY) + b"0\r\ntransfer-encoding: chunked\r\n\r\n"),
    case("a folded trailer", "refused", CHUNKED, body=chunk(BODY) + b"0\r\nx: 1\r\n 2\r\n\r\n"),
    case("a trailer without a colon", "refused", CHUNKED, body=chunk(BODY) + b"0\r\nGET / HTTP/1.1\r\n\r\n"),
    case("101 trailers", "served", CHUNKED, body=chunk(BODY) + b"0\r\n" + b"x: 1\r\n" * 101 + b"\r\n"),
    case("an endless trailer", "refused", CHUNKED, body=chunk(BODY) + b"0\r\nx: " + b"y" * 200_000 + b"\r\n\r\n"),
]  # fmt: skip

LINES = [
    Case("LF alone everywhere", EVIL.replace(b"\r\n", b"\n"), "refused"),
    Case("CR alone everywhere", EVIL.replace(b"\r\n", b"\r"), "refused"),
    case("LF alone after the request line", "refused", LENGTH, start=START.replace(b"\r\n", b"\n")),
    case("CR alone after the request line", "refused", LENGTH, start=START.replace(b"\r\n", b"\r")),
    case("CR CR LF after the request line", "refused", LENGTH, start=START.replace(b"\r\n", b"\r\r\n")),
    case("LF alone after a header", "refused", b"x: y\n" + LENGTH),
    case("CR alone after a header", "refused", b"x: y\r" + LENGTH),
    Case("LF alone before the body", START + HOST + CREDENTIAL + LENGTH + b"\r\n\n" + BODY, "refused"),
    Case("LF LF before the body", START + HOST + CREDENTIAL + LENGTH + b"\n\n" + BODY, "refused"),
    Case("CR alone before the body", START + HOST + CREDENTIAL + LENGTH + b"\r\n\r" + BODY, "refused"),
    case("a folded header", "refused", b"x: y\r\n z", LENGTH),
    case("a folded header, by tab", "refused", b"x: y\r\n\tz", LENGTH),
    case("a folded line of nothing", "refused", b"x: y\r\n ", LENGTH),
    case("a folded first header", "refused", LENGTH, host=b" x: y\r\n" + HOST),
    case("NUL in a value", "refused", b"x: a\x00b", LENGTH),
    case("NUL in a name", "refused", b"x\x00: a", LENGTH),
    case("a control character in a value", "refused", b"x: a\x01b", LENGTH),
    case("DEL in a value", "refused", b"x: a\x7fb", LENGTH),
    case("bytes over 127 in a value", "served", b"x: \xff\xfe", LENGTH),
    case("an empty value", "served", b"x:", LENGTH),
    case("space before a colon", "refused", b"x : y", LENGTH),
    case("an empty name", "refused", b": y", LENGTH),
    case("a line without a colon", "refused", b"x", LENGTH),
    case("a parenthesis in a name", "refused", b"x(y: z", LENGTH),
    case("a slash in a name", "refused", b"x/y: z", LENGTH),
    case("a byte over 127 in a name", "refused", b"x\xe9: z", LENGTH),
    case("every mark that a name may have", "served", b"!#$%&'*+-.^_`|~: z", LENGTH),
    Case("one empty line first", b"\r\n" + case("", "", LENGTH).data, "served"),
    Case("two empty lines first", b"\r\n\r\n" + case("", "", LENGTH).data, "served"),
    Case("a space first", b" " + case("", "", LENGTH).data, "refused"),
    Case("a tab first", b"\t" + case("", "", LENGTH).data, "refused"),
    Case("NUL first", b"\x00" + case("", "", LENGTH).data, "refused"),
    Case("a byte order mark first", b"\xef\xbb\xbf" + case("", "", LENGTH).data, "refused"),
]

HOSTS = [
    case("no Host", "refused", LENGTH, host=b""),
    case("Host twice, the same", "refused", LENGTH, host=HOST + HOST),
    case("Host twice", "refused", LENGTH, host=HOST + b"host: evil\r\n"),
    case("Host twice in two cases", "refused", LENGTH, host=HOST + b"HOST: evil\r\n"),
    case("Host with a port", "served", LENGTH, host=b"host: waypost:8080\r\n"),
    case("Host as an IPv6 address", "served", LENGTH, host=b"host: [::1]:8080\r\n"),
    case("Host with a space", "refused", LENGTH, host=b"host: way post\r\n"),
    case("Host with a slash", "refused", LENGTH, host=b"host: waypost/evil\r\n"),
    case("Host with a question mark", "refused", LENGTH, host=b"host: waypost?x\r\n"),
    case("Host with a number sign", "refused", LENGTH, host=b"host: waypost#x\r\n"),
    case("Host with a user", "refused", LENGTH, host=b"host: user@waypost\r\n"),
    case("Host as a list", "refused", LENGTH, host=b"host: waypost, evil\r\n"),
    case("Host folded", "refused", LENGTH, host=b"host: waypost\r\n evil\r\n"),
    case("Host with bytes over 127", "refused", LENGTH, host=b"host: w\xe4ypost\r\n"),
]


def line(text: bytes) -> bytes:
    return text + b"\r\n"


TARGETS = [
    case(f"request line {text[:60]!r}", outcome, LENGTH, start=line(text))
    for text, outcome in (
        (b"POST http://waypost/v1/chat/completions HTTP/1.1", "served"),
        (b"POST https://waypost/v1/chat/completions HTTP/1.1", "served"),
        (b"POST HTTP://waypost:80/v1/chat/completions HTTP/1.1", "served"),
        (b"POST http://waypost/v1/chat/completions?x=http://y/ HTTP/1.1", "served"),
        (b"POST /v1/chat/completions?a=b HTTP/1.1", "served"),
        (b"POST /v1/chat/completions/ HTTP/1.1", "served"),
        (b"POST http:///v1/chat/completions HTTP/1.1", "served"),
        (b"POST ftp://waypost/v1/chat/completions HTTP/1.1", "served"),
        (b"POST waypost:80 HTTP/1.1", "refused"),
        (b"POST * HTTP/1.1", 404),
        (b"POST v1/chat/completions HTTP/1.1", "refused"),
        (b"POST //v1/chat/completions HTTP/1.1", 404),
        (b"POST /v1/../v1/chat/completions HTTP/1.1", 404),
        (b"POST /v1/%2e%2e/v1/chat/completions HTTP/1.1", 404),
        (b"POST /V1/chat/completions HTTP/1.1", 404),
        (b"POST /v1/chat/completions%00 HTTP/1.1", 404),
        (b"POST /v1/chat/completions;x HTTP/1.1", 404),
        (b"POST /v1/chat completions HTTP/1.1", "refused"),
        (b"POST /v1/chat/completions\x00 HTTP/1.1", "refused"),
        (b"POST /v1/chat/completions\x01 HTTP/1.1", "refused"),
        (b"POST /v1/chat/completions\t HTTP/1.1", "refused"),
        (b"POST /v1/chat/completions\x7f HTTP/1.1", "refused"),
        (b"POST  HTTP/1.1", "refused"),
        (b"POST /v1/chat/completions", "refused"),
        (b"POST /v1/chat/completions ", "refused"),
        (b"POST /v1/chat/completions HTTP/0.9", "refused"),
        (b"POST /v1/chat/completions HTTP/1.2", "refused"),
        (b"POST /v1/chat/completions HTTP/1.10", "refused"),
        (b"POST /v1/chat/completions HTTP/2.0", "refused"),
        (b"POST /v1/chat/completions HTTP/2", "refused"),
        (b"POST /v1/chat/completions HTTP/3.0", "refused"),
        (b"POST /v1/chat/completions HTTP/1.1 ", "refused"),
        (b"POST /v1/chat/completions HTTP/1.1 HTTP/1.1", "refused"),
        (b"POST /v1/chat/completions HTTP/1.1x", "refused"),
        (b"POST /v1/chat/completions HTTP/01.1", "refused"),
        (b"POST /v1/chat/completions HTTP/1,1", "refused"),
        (b"POST /v1/chat/completions HTTP 1.1", "refused"),
        (b"POST /v1/chat/completions http/1.1", "refused"),
        (b"POST /v1/chat/completions XTTP/1.1", "refused"),
        (b"POST /v1/chat/completions RTSP/1.0", "refused"),
        (b"POST /v1/chat/completions ICE/1.0", "refused"),
        (b"POST\t/v1/chat/completions HTTP/1.1", "refused"),
        (b"POST  /v1/chat/completions HTTP/1.1", "refused"),
        (b"POST /v1/chat/completions  HTTP/1.1", "refused"),
        (b"POST /v1/chat/completions\tHTTP/1.1", "refused"),
        (b"post /v1/chat/completions HTTP/1.1", "refused"),
        (b"POSTX /v1/chat/completions HTTP/1.1", "refused"),
        (b"FOO /v1/chat/completions HTTP/1.1", "refused"),
        (b"P OST /v1/chat/completions HTTP/1.1", "refused"),
        (b"PO\x00ST /v1/chat/completions HTTP/1.1", "refused"),
        (b"PUT /v1/chat/completions HTTP/1.1", 405),
        (b"DELETE /v1/chat/completions HTTP/1.1", 405),
        (b"PATCH /v1/chat/completions HTTP/1.1", 405),
        (b"TRACE /v1/chat/completions HTTP/1.1", 405),
        (b"PROPFIND /v1/chat/completions HTTP/1.1", 405),
        (b"QUERY /v1/chat/completions HTTP/1.1", 405),
        (b"GET /v1/chat/completions HTTP/1.1", 405),
        (b"HEAD /v1/nothing HTTP/1.1", 404),
    )
]

H2C = (b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__")
WEBSOCKET = (b"upgrade: websocket", b"sec-websocket-key: AA==")
OTHERS = [
    Case("HTTP/0.9", b"GET /healthz\r\n\r\n", "refused"),
    Case("HTTP/0.9 with LF", b"GET /healthz\n", "refused"),
    Case("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "refused"),
    Case("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)), "refused"),
    Case("an SSH banner", b"SSH-2.0-OpenSSH_9.2\r\n", "refused"),
    Case("a response", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "refused"),
    case("HTTP/1.0 without Host", "served", LENGTH, start=START.replace(b"1.1", b"1.0"), host=b""),
    case("HTTP/1.0 that stays", "served", LENGTH, b"connection: keep-alive", start=START.replace(b"1.1", b"1.0")),
    case("an offer of h2c", "served", LENGTH, b"connection: upgrade, http2-settings", *H2C),
    case("an offer of h2c with chunks", "served", CHUNKED, b"connection: upgrade", b"upgrade: h2c", body=WHOLE),
    case("an offer of a websocket", "served", LENGTH, b"connection: upgrade", *WEBSOCKET),
    case("an offer that Connection does not name", "served", LENGTH, b"upgrade: websocket"),
    case("an offer without a body", 400, b"connection: upgrade", b"upgrade: h2c", body=b""),
    case("CONNECT", "refused", start=b"CONNECT waypost:80 HTTP/1.1\r\n", body=EVIL),
    case("CONNECT with a length", "refused", LENGTH, start=b"CONNECT waypost:80 HTTP/1.1\r\n", body=BODY + EVIL),
    case("CONNECT to a path", "refused", LENGTH, start=b"CONNECT /v1/chat/completions HTTP/1.1\r\n"),
    case("Connection: close before another request", "served", LENGTH, b"connection: close", body=BODY + EVIL),
    case("Connection names Content-Length", "served", LENGTH, b"connection: keep-alive, content-length"),
    case("an expectation nobody meets", 417, LENGTH, b"expect: 200-ok"),
    case("two expectations", 417, LENGTH, b"expect: 100-continue, 200-ok"),
    case("an expectation in capitals", "served", LENGTH, b"expect: 100-Continue"),
    case("an expectation without waiting", "served", LENGTH, b"expect: 100-continue"),
    case("an expectation with chunks", "served", CHUNKED, b"expect: 100-continue", body=WHOLE),
    case("the credential twice", 400, LENGTH, CREDENTIAL.rstrip()),
    case("the type twice", "served", LENGTH, b"content-type: application/json", b"content-type: text/plain"),
    case("a method override", "served", LENGTH, b"x-http-method-override: DELETE"),
    case("another URL in a header", "served", LENGTH, b"x-original-url: /v1/models", b"x-rewrite-url: /healthz"),
]  # fmt: skip

CASES = [*CONTENT_LENGTH, *BOTH, *TRANSFER_ENCODING, *CHUNKS, *LINES, *HOSTS, *TARGETS, *OTHERS]
