"""CivitAI: look-ups, downloads and metadata. Nothing here runs unless the user asks for it."""
