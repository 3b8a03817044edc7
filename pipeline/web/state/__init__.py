"""State that the server keeps between requests."""
