"""burnish: report."""
