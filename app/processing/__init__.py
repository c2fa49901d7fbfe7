"""Work on files once they are stored: claimed under a lease, processed off the event loop, finished as a set."""
