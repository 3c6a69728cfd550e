"""A scripted engine and embedders by hashing, for tests of Antiphon and of projects built on it."""
