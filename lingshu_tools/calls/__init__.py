"""Tool calls: the registry of tools, the dispatcher, results, errors of arguments, and waiting."""
