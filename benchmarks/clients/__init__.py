"""Do client libraries convert the published tools? Each in a separate environment, offline."""
