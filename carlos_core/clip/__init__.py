"""CLIP: pictures and texts as features, and the signatures of queries."""
