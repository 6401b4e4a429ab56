"""How fast things are, beside a matrix product of the same run, and how much memory they take."""
