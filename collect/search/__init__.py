"""Stage 2: search each prompt's best wording by rendering and judging."""
