"""`python -m benchmarks.any_data`: see `benchmarks.any_data.run`."""

from benchmarks.any_data.run import main

main()
