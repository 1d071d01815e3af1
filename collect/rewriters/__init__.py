"""Raw prompt to better prompt: in one pass, by RAPO, by critique, by choice."""
