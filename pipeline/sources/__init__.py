"""List the files of a run's sources: paths, globs, manifests and any URI that fsspec opens."""
