"""Sessions of client libraries with a running server: list, call, fail, give up, cancel."""
