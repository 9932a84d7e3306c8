"""Language models as judges: rubric, prompt, reading of answers, endpoint, cache, and the judges made of them."""
