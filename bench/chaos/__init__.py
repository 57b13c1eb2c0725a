"""Kills, flipped bytes, damaged inputs, failing disks and bad numbers, in numbers that count; see `__main__`."""
