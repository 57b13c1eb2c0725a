"""Playing in the dream: a page in the browser where a person acts in the world model, beside the real game."""
