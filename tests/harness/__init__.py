"""What tests and benchmarks build on: fakes, a small desk, an issuer, stored files."""
