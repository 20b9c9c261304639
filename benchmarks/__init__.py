"""Programs that measure: floors, peers, scale, micro. ``python -m benchmarks`` runs them all."""
