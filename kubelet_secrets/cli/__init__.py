"""The command line. Thin: each command reads its flags, calls one part, and prints. Imports are lazy (``main.py``)."""
