"""From a query to LoRAs: rankings, limits, and which to put together."""
