"""The engine: one min-max step, epochs of it, and what they need; it knows nothing of the terminal."""
