"""Decodes a user-specified feature of any vision network back into images, and measures the match."""
