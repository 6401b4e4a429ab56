"""Do client libraries convert the published tools? Each in an environment of its own, offline."""
