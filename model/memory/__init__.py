"""Memory banks, merge policies and finished memory slots."""
