"""What the pages show, built from the core's objects: numbers first, drawing last."""
