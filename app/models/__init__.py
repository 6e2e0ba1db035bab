"""Models: weights the server has met, their inventories and names."""
