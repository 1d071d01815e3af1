"""What is trained: one Lightning module per objective."""
