"""`python -m app` is `boatload`."""

from app.cli import main

main()
