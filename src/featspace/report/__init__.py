"""The page a reviewer reads: every figure and table of a profile, its images one by one, and where they come from."""
