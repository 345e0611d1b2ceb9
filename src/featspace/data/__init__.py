"""Targets, photographs and features, on disk."""
