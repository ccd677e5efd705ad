"""burnish: cli."""
