"""What a request costs here, beside nginx and whatever other gateways are installed: `python -m bench`."""
