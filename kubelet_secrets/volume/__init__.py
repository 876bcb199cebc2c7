"""Volumes: payload (what files) → atomicwriter (how they are written) → store and manager (where they live)."""
