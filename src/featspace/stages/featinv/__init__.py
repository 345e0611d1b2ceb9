"""FeatInv (arXiv 2505.21032): a ControlNet on a frozen diffusion model, whose hint is a network's feature map."""
