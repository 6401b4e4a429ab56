"""How fast sampling and training are, beside a matrix product measured in the same run."""
