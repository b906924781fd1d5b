"""Labels off reports against the codes that people gave them."""
