"""The second stage: latent diffusion."""
