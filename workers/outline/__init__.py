"""The inventory of a model by the names in its headers, where no MLX is installed to be asked."""
