"""Every provider, one table: how it is spoken to, where it lives, and where its key usually is.

A provider that speaks OpenAI's format is one row. Addresses and variables are the providers' own documented ones.
"""

from __future__ import annotations

import msgspec


class Provider(msgspec.Struct, frozen=True):
    """`format` names a module of `formats/`; `key` is the environment variable its SDK reads.

    `prices` is the provider's id in the genai-prices list where that differs from its name here, None where the list
    does not have it.
    `idle` is how long, in seconds, a connection may be kept unused.
    """

    name: str
    base_url: str
    key: str
    format: str = "openai"
    prices: str | None = ""
    idle: float = 30.0

    @property
    def listed(self) -> str | None:
        """Its id in the price list, if it has one."""
        return self.prices if self.prices is None else self.prices or self.name


TABLE: tuple[Provider, ...] = (
    Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    Provider("deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    Provider("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    Provider("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    Provider("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    Provider("xai", "https://api.x.ai/v1", "XAI_API_KEY", prices="x-ai"),
    Provider("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    Provider("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    Provider("perplexity", "https://api.perplexity.ai", "PERPLEXITY_API_KEY"),
    Provider("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    Provider("moonshot", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY", prices="moonshotai"),
    Provider("zhipu", "https://api.z.ai/api/paas/v4", "ZAI_API_KEY", prices="zai"),
    Provider("dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY", prices=None),
    Provider("minimax", "https://api.minimax.io/v1", "MINIMAX_API_KEY"),
    Provider("sambanova", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", prices=None),
    Provider("nvidia", "https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY", prices=None),
    Provider("huggingface", "https://router.huggingface.co/v1", "HF_TOKEN", prices=None),
)

BY_NAME: dict[str, Provider] = {row.name: row for row in TABLE}
