"""What is wrong with a run, and what helps: checks on demand, and the cheap ones while training."""
