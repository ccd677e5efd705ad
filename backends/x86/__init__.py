"""burnish: x86."""
