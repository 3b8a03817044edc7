"""Ray Data callables, one a file, named by what they do."""
