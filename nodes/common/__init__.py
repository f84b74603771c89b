"""What several nodes share: sockets, widgets, reports."""
