"""CLIP: pictures and texts as features, and the signatures of queries."""

from .encoder import Encoder, OpenClipEncoder
from .loading import encoder_dimension, load_encoder
from .signature import SignatureCache
from .weights import LocalEncoder, local_encoders

__all__ = ["Encoder", "LocalEncoder", "OpenClipEncoder", "SignatureCache", "encoder_dimension", "load_encoder", "local_encoders"]
