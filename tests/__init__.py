"""Tests of the package, and the benchmarks that measure it."""
