"""CivitAI: look-ups, downloads and metadata. Nothing in here runs unless the user asks for it."""
