"""A web page and a JSON API to search, watch and ask an archive."""
