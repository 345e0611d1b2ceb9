"""Latent diffusion models that guide towards what is natural."""
