"""The first stage: a 3D VQ-GAN with three quantizers."""
