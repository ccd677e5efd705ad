"""burnish: runtime."""
