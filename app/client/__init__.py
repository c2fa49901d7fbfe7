"""What `boatload push` runs: the HTTP client of the service. Knows the API and the domain only."""
