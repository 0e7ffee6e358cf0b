"""Exported files: what they say of themselves, and the engines that run them. Nothing here needs torch to be imported.

`pe_spatial.export` writes the files; `pe_spatial.engines.bridge` runs them on torch's tensors.
"""

from pe_spatial.engines.header import Header, is_exported, read_header
from pe_spatial.engines.proof import Proof, proof_of
from pe_spatial.engines.sessions import ENGINES, Session, choose_engine, open_session

__all__ = [
    "ENGINES",
    "Header",
    "Proof",
    "Session",
    "choose_engine",
    "is_exported",
    "open_session",
    "proof_of",
    "read_header",
]
