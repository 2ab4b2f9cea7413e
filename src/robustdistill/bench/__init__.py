"""Measuring speed: the steps of a run in several modes, phase by phase, beside a baseline."""
