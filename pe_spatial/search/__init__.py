"""Search by words or by a picture: embeddings of pictures and videos in one file, exact search in it, and recall."""

from pe_spatial.search.index import Hit, Index, Row
