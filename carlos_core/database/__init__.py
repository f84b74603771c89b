"""Metrics databases: rows of LoRAs in a parquet file."""
