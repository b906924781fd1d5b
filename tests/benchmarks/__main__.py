"""Entry of ``python -m tests.benchmarks``."""

from tests.benchmarks.cli import benchmark

if __name__ == "__main__":
    benchmark()
