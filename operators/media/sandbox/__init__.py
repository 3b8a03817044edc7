"""Video files are read in child processes, which may crash or hang without harm."""
