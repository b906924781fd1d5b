"""Region embeddings: faithful to the image, what they cost, what they say of phantoms."""
