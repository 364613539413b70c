"""A real server that behaves like a provider: text, tools, faults on demand, and a journal that tests check against."""
