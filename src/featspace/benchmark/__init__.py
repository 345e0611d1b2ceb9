"""The benchmark: methods against each other, on the same features, from the same seeds, at the same budget."""
