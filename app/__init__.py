"""Boatload: a self-hosted batch-upload service."""
