"""Tests of recordings, actions and the latent store."""
