"""The zoo compiled, compared and timed: ``python -m tests.bench``."""
