"""How near images come to one another: pure functions of tensors and arrays."""
