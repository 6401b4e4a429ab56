"""Experiments at work: background threads, engine jobs, cancelling, resuming, screens, replays."""
