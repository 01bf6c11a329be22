"""Speed and memory of flatmin beside its peers; `python -m benchmarks`."""
