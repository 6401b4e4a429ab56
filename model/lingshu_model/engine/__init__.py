"""The engine: a process that holds checkpoints in memory and answers arms with cells."""
