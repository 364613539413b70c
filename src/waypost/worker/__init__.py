"""The traffic: one worker process serves requests and never waits for a database."""
