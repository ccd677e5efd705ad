"""Precision below 16 bits: how a graph is quantized, and how much of that a budget allows."""
