"""The pure parts, each by itself: ``python -m benchmarks.micro``. A report, never a gate."""
