"""Any vision network as a differentiable function from images in [0, 1] to features."""
