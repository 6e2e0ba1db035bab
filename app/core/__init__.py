"""The pure core: formats, exact bytes, measurements, allocation, manifest."""
