"""The stages of a job: fetch, inventory, measure, allocate, quantize, evaluate, benchmark."""
