"""What a process needs of its machine: time limits, interpreters, signals, terminals, modes."""
