"""The engine as its clients see it: started, found, asked for cells, and ended."""
