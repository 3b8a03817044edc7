"""One LanceDB database: reading it, writing it exactly once, and keeping it fast."""
