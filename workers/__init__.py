"""Everything that touches weights: measuring, quantizing, evaluating."""
