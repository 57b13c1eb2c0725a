"""Latent pooling and symlog two-hot losses: the operations that FastDreamer calls by these names alone."""

from fastdreamer_kernels.reference import latent_pool, symexp_bins, symlog, two_hot_decode, two_hot_encode, two_hot_loss

__all__ = ["latent_pool", "symexp_bins", "symlog", "two_hot_decode", "two_hot_encode", "two_hot_loss"]
