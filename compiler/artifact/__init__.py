"""burnish: artifact."""
