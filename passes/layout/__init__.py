"""burnish: layout."""
