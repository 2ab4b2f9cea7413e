"""What a run leaves on disk: run directories, event logs, checkpoints. It knows nothing of terminal or engine."""
