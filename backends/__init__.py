"""burnish: backends."""
