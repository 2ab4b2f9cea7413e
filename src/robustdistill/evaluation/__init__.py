"""Judging networks: the same attacks that training uses, per-example verdicts, nothing averaged away."""
