"""What the server keeps between requests."""
