"""burnish: cpu."""
