"""Ways from a feature to an image: pure functions of tensors and callables."""
