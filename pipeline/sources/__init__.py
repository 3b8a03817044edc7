"""Which files there are: paths, globs, manifests and every address that fsspec opens."""
