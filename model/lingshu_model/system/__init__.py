"""Torch-free: files, locks, sockets, processes and secrets of this machine."""
