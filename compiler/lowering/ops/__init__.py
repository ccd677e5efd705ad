"""burnish: ops."""
