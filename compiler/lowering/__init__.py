"""burnish: lowering."""
