"""burnish: importers."""
