"""Prompt sets: what a LoRA is measured on, what a query's signature is averaged over, what queries are compared with."""
