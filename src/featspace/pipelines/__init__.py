"""The decoders as pipelines of diffusers."""
