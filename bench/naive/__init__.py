"""The yardstick: the same mathematics in plain eager PyTorch, without a cache, compilation or fused operations."""
