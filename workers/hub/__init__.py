"""Models on the Hugging Face Hub: headers by range request, shards on demand, upload of results."""
