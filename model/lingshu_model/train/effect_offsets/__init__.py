"""Initial values of the network's effect offsets, and their calibration."""
