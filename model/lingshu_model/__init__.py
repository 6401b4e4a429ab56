"""A masked discrete diffusion model of the cell, its training, evaluation and engine.

Importing this package loads no torch: `lingshu_model.wire` is what the torch-free side may import.
"""

__version__ = "0.1.0"
