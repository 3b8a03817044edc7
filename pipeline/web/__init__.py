"""A page and a JSON API over an archive, to search it, watch it and ask it."""
