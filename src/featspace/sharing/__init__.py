"""A profile's results as one file: written from a checkout, and opened again."""
