"""The bottom floor: errors, files, pictures, videos, names and records. It imports no other package of ours."""
