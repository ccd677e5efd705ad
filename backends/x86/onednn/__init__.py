"""oneDNN's operations as tactics on x86-64 Linux."""
