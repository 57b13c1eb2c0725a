"""The gate: counts and times against committed expectations."""
