"""What fits on a device, told from an inventory alone."""
