"""Every endpoint, one row each: who may call it, what it takes, what it gives, and how often.

Workers route by this table (`worker/routes.py`), the keeper answers its part of it (`keeper/web/`), and
`/openapi.json` is printed from it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from waypost.api import preset_shapes, routing_shapes, shapes
from waypost.messages import Identity

Method = Literal["GET", "POST", "PATCH", "DELETE"]
Permission = Literal["public", "metrics", "catalogue", "key", "inference", "management", "management-or-jwt"]

MEANINGS: dict[Permission, str] = {
    "public": "anyone",
    "metrics": "whom `server.metrics` lets",
    "catalogue": "any good key or token; anyone where `server.public_models` names a plan",
    "key": "any good key or token",
    "inference": "an inference key (rk_…) or a token",
    "management": "a management key (rkm_…)",
    "management-or-jwt": "a management key (rkm_…) or a token",
}


class Burst(msgspec.Struct, frozen=True):
    """How often one account may call: in any ten seconds, and in any minute."""

    ten_seconds: int
    minute: int


class Endpoint(msgspec.Struct, frozen=True):
    """A row. In `path`, `{model}` may have slashes in it, any other name in braces is one plain segment.

    `kept`: the keeper answers it, and takes `most` bytes at most. `burst`: how often one account may call it.
    """

    method: Method
    path: str
    permission: Permission
    name: str
    summary: str
    answer: Any
    query: type[shapes.Given] | None = None
    body: Any = None
    kept: bool = True
    burst: Burst | None = None
    media: str = "application/json"
    most: int = 64 * 1024

    @property
    def prefix(self) -> str:
        """The path up to its `{name}`."""
        return self.path.partition("{")[0]

    @property
    def parameter(self) -> str:
        """The name in braces; empty where there is none."""
        return self.path.partition("{")[2].partition("}")[0]

    @property
    def suffix(self) -> str:
        """The path behind its `{name}`."""
        return self.path.partition("}")[2]


PLAIN = "text/plain; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
PRESET = 512 * 1024  # bytes of a request about one
FREQUENT, OFTEN, SOMETIMES, SELDOM = Burst(50, 300), Burst(10, 120), Burst(5, 60), Burst(2, 15)

ENDPOINTS: tuple[Endpoint, ...] = (
    # Answered by the worker itself
    Endpoint("POST", "/v1/chat/completions", "inference", "create_chat_completion",
             "A model's answer to a conversation, whole or as a stream of events.",
             shapes.ChatCompletion, body=shapes.ChatRequest, kept=False),
    Endpoint("POST", "/v1/embeddings", "inference", "create_embeddings",
             "A vector for each text.", shapes.EmbeddingList, body=shapes.EmbeddingsRequest, kept=False),
    Endpoint("POST", "/v1/preflight", "inference", "preflight",
             "What would become of a chat completion request, without sending it on: it costs nothing.",
             routing_shapes.Preflight, body=shapes.ChatRequest, kept=False),
    Endpoint("GET", "/v1/status", "public", "get_status",
             "How providers and models are, and what went wrong lately.", routing_shapes.Status, kept=False),
    Endpoint("GET", "/v1/models", "catalogue", "list_models",
             "The models that the caller's plan allows.", shapes.ModelList, kept=False),
    Endpoint("GET", "/v1/models/{model}", "catalogue", "get_model",
             "One model; its id may have slashes in it.", shapes.ModelCard, kept=False),
    Endpoint("GET", "/v1/pricing", "catalogue", "get_pricing",
             "What the models cost that the caller's plan allows.", shapes.PriceList, kept=False),
    Endpoint("GET", "/healthz", "public", "healthz", "This process is alive.", str, kept=False, media=PLAIN),
    Endpoint("GET", "/readyz", "public", "readyz",
             "Whether it may take traffic; says why not.", str, kept=False, media=PLAIN),
    Endpoint("GET", "/openapi.json", "public", "get_openapi", "This document.", dict[str, Any], kept=False),
    # Answered by the keeper
    Endpoint("GET", "/metrics", "metrics", "get_metrics", "Metrics for Prometheus.", str, media=PROMETHEUS),
    Endpoint("GET", "/v1/user/requests", "inference", "get_request_counts",
             "What the account has used of its limits on requests.", shapes.RequestCounts, burst=FREQUENT),
    Endpoint("GET", "/v1/user/requests/hourly", "inference", "get_hourly_count",
             "The same of this hour.", shapes.HourlyCount, burst=FREQUENT),
    Endpoint("POST", "/v1/user/streams/kill", "inference", "kill_streams",
             "End all streams of the account.", shapes.KilledStreams, burst=OFTEN),
    Endpoint("GET", "/v1/key", "inference", "get_key",
             "The calling key: its limit and what it has spent.", shapes.KeyUseAnswer, burst=FREQUENT),
    Endpoint("GET", "/v1/generation", "inference", "get_generation",
             "One request's receipt.", shapes.ReceiptAnswer, query=shapes.ReceiptQuery, burst=FREQUENT),
    Endpoint("GET", "/v1/account/balance", "management", "get_balance",
             "What is left of what has been paid in.", shapes.Balance, burst=OFTEN),
    Endpoint("GET", "/v1/account/activity", "management", "get_activity",
             "The account's latest requests.", shapes.ActivityPage, query=shapes.Page, burst=SOMETIMES),
    Endpoint("GET", "/v1/account/analytics", "management", "get_analytics",
             "Use by day and model.", shapes.Analytics, query=shapes.AnalyticsQuery, burst=Burst(2, 25)),
    Endpoint("GET", "/v1/account/keys", "management", "list_keys",
             "The account's keys.", shapes.AccountKeys, burst=SOMETIMES),
    Endpoint("POST", "/v1/account/keys", "management", "create_key",
             "A new inference key; this answer alone has it whole.",
             shapes.AccountKey, body=shapes.NewKey, burst=Burst(2, 12)),
    Endpoint("GET", "/v1/account/keys/{id}", "management", "read_key",
             "One key.", shapes.AccountKey, burst=SOMETIMES),
    Endpoint("PATCH", "/v1/account/keys/{id}", "management", "update_key",
             "Change what a key is called or what narrows it.",
             shapes.AccountKey, body=shapes.KeyChanges, burst=SELDOM),
    Endpoint("DELETE", "/v1/account/keys/{id}", "management", "delete_key",
             "Revoke a key.", shapes.Message, burst=SELDOM),
    Endpoint("GET", "/v1/user/key", "management-or-jwt", "list_user_keys",
             "The account's keys, as routing.run lists them.", shapes.UserKeys, burst=SOMETIMES),
    Endpoint("POST", "/v1/user/key", "management-or-jwt", "create_user_key",
             "A new inference key, as routing.run creates it.",
             shapes.CreatedUserKey, body=shapes.NewUserKey, burst=Burst(2, 12)),
    Endpoint("DELETE", "/v1/user/key/{id}", "management-or-jwt", "revoke_user_key",
             "Revoke a key.", shapes.Message, burst=SELDOM),
    Endpoint("GET", "/v1/presets", "management", "list_presets",
             "The account's presets.", preset_shapes.PresetList, burst=SOMETIMES),
    Endpoint("POST", "/v1/presets", "management", "create_preset",
             "A new preset.", preset_shapes.Preset, body=preset_shapes.NewPreset, burst=OFTEN, most=PRESET),
    Endpoint("GET", "/v1/presets/{preset}", "management", "read_preset",
             "One preset, by its slug or id.", preset_shapes.Preset, query=preset_shapes.PresetQuery, burst=OFTEN),
    Endpoint("PATCH", "/v1/presets/{preset}", "management", "update_preset",
             "Change a preset: a new version, or which version counts.",
             preset_shapes.Preset, body=preset_shapes.PresetChanges, burst=OFTEN, most=PRESET),
    Endpoint("DELETE", "/v1/presets/{preset}", "management", "delete_preset",
             "Delete a preset with all its versions.", shapes.Message, burst=OFTEN),
    Endpoint("GET", "/v1/presets/{preset}/versions", "management", "list_preset_versions",
             "A preset's versions.", preset_shapes.PresetVersionList, burst=OFTEN),
    Endpoint("POST", "/v1/presets/{preset}/chat/completions", "management", "save_preset",
             "Keep a chat completion request as a preset of this slug, or as its next version.",
             preset_shapes.Preset, body=preset_shapes.SavedRequest, burst=OFTEN, most=PRESET),
)  # fmt: skip

BY_NAME: dict[str, Endpoint] = {endpoint.name: endpoint for endpoint in ENDPOINTS}


def permits(permission: Permission, identity: Identity) -> bool:
    """May this caller call endpoints of this permission? `public` and `metrics` are not asked about here."""
    if permission in ("key", "catalogue"):
        return True
    if permission == "inference":
        return identity.kind == "inference"
    if permission == "management":
        return identity.kind == "management"
    return permission == "management-or-jwt" and (identity.kind == "management" or identity.key_id == 0)


def markdown() -> str:
    """The table of `docs/api.md`."""
    lines = ["| endpoint | for | calls an account may make | |", "|---|---|---|---|"]
    for row in ENDPOINTS:
        often = f"{row.burst.ten_seconds} in 10 s, {row.burst.minute} in a minute" if row.burst is not None else ""
        lines.append(f"| `{row.method} {row.path}` | {MEANINGS[row.permission]} | {often} | {row.summary} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
