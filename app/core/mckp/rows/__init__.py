"""Several limits at once: Lagrangian prices, repair, branching, and CP-SAT for what is left."""
