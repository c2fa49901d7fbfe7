"""Who may call: API keys, JWTs of other issuers, and tokens for single batches."""
