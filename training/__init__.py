"""Corpora to batches, updates, checkpoints and scores."""
