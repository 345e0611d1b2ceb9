"""Errors, files, images, tables, devices: knows nothing of the rest."""
