"""From a data file to token ids: read, verify, tokenise, store, order. Import from its modules."""
