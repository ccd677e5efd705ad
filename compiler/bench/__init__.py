"""burnish: bench."""
