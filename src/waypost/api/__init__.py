"""The HTTP interface as data: every endpoint, the shapes that go in and come out, and the OpenAPI document of both."""
