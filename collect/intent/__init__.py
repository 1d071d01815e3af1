"""The gate: does a rewrite still say what the user asked for."""
