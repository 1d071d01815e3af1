"""The trainer program: ``python -m train``."""
