"""Playing the dream: the world model under somebody's keys, beside the real environment."""
