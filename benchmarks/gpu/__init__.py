"""What a machine with a GPU must show: training, sampling and replay at the paper's shape."""
