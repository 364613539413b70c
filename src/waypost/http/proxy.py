"""HTTPS_PROXY and NO_PROXY: tunnels through an HTTP proxy (RFC 9110 §9.3.6, CONNECT)."""

from __future__ import annotations

import asyncio
import base64
import socket
import urllib.parse
import urllib.request

import msgspec


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy; `credentials` is the value of Proxy-Authorization, or empty."""

    host: str
    port: int
    credentials: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"


def proxy_for(scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy that the environment names for a target, by the usual variables in either case.

    Raises ValueError where the variable is not `http://[user:password@]host[:port]`.
    """
    proxies = urllib.request.getproxies_environment()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or urllib.request.proxy_bypass(f"{host}:{port}"):
        return None
    parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{scheme.upper()}_PROXY: only http:// proxies are supported")
    credentials = ""
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        credentials = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(parts.hostname, parts.port or 80, credentials)


async def tunnel(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Ask the proxy for a tunnel on a connected socket. Raises OSError where it refuses."""
    loop = asyncio.get_running_loop()
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.credentials:
        lines.append(f"Proxy-Authorization: {proxy.credentials}")
    await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        # A byte at a time, so that nothing of what the target says first is taken; heads are short.
        byte = await loop.sock_recv(sock, 1)
        answer += byte
        if not byte or len(answer) > 8192:
            raise OSError(f"the proxy {proxy.host}:{proxy.port} did not open a tunnel")
    status = answer.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or status[1] != b"200":
        raise OSError(f"the proxy {proxy.host}:{proxy.port} refused the tunnel: {answer[:80]!r}")
