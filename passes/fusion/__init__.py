"""burnish: fusion."""
