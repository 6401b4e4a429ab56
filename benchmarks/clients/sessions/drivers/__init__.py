"""One module for each client library; each runs in the environment of that library only."""
