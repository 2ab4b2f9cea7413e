"""Looking for what would fail before a run does. It knows nothing of the terminal."""
