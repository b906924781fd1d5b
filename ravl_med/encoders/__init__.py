"""Vision-language models: opened offline, embedding films, regions and texts in one space."""
