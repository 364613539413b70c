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
    Provider("github", "https://models.github.ai/inference", "GITHUB_TOKEN", prices=None),
    Provider("ollama", "http://localhost:11434/v1", "OLLAMA_API_KEY", prices=None),
    Provider("vllm", "http://localhost:8000/v1", "VLLM_API_KEY", prices=None),
    Provider("llama.cpp", "http://localhost:8080/v1", "LLAMA_API_KEY", prices=None),
    Provider("lmstudio", "http://localhost:1234/v1", "LM_API_TOKEN", prices=None),
    Provider("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", "anthropic"),
    Provider("gemini", "https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY", "gemini", prices="google"),
    Provider("cohere", "https://api.cohere.com/v2", "CO_API_KEY", "cohere"),
)

# Those that a key alone does not reach: whose customer, and where, is said in the configuration.
PLACED: tuple[Provider, ...] = (
    Provider("azure", "https://{resource}.openai.azure.com/openai", "AZURE_OPENAI_API_KEY"),
    Provider("vertex", "https://{location}-aiplatform.googleapis.com/v1", "", "gemini", prices="google"),
    Provider(
        "bedrock", "https://bedrock-runtime.{region}.amazonaws.com", "AWS_BEARER_TOKEN_BEDROCK", "bedrock", prices="aws"
    ),
)

BY_NAME: dict[str, Provider] = {row.name: row for row in (*TABLE, *PLACED)}
