"""Waypost: an OpenAI-compatible router for language models that you run yourself."""

__version__ = "0.1.0"
