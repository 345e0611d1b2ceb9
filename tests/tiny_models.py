"""Configurations of the smallest latent diffusion prior that still has every kind of block."""

from __future__ import annotations

UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}
TEXT = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "projection_dim": 8,
}
VAE = {
    "latent_channels": 4,
    "sample_size": 64,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "block_out_channels": [4, 4, 4],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
