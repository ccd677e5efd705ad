"""burnish: check."""
