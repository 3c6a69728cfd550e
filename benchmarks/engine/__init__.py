"""Engine: throughput beside a bare loop, parity of the paths, embeddings."""
