"""What is measured: names of metrics, validation, cost, judges on labelled solutions, benchmarks."""
