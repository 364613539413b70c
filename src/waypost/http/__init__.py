"""Bytes ⇄ HTTP/1.1; knows nothing of language models."""
