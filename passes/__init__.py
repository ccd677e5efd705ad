"""burnish: passes."""
