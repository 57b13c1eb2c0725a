"""Ten minutes on a GPU, in parts of which none stops the others: `python -m bench.gpu`."""
