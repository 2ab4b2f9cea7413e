"""Data sets: where images come from, and how batches reach the device."""
