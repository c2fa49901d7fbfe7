"""Webhooks after the Standard Webhooks specification: what an owner sets up, and the delivery of messages."""
