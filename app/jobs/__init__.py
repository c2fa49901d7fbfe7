"""The queue that carries work from the transaction that stores files to the workers."""
