"""Taking files in: from a body's bytes to durable objects and committed rows; and what owners do with batches."""
