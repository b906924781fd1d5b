"""What measures the tool: ``python -m tests.benchmarks NAME`` makes a page of reports/benchmark."""
