"""Deletes recordings when told by `media.orders`, and says what became of each: a folder, and stores that speak S3.

A shelf has one verb. What it says is evidence: codes, counts and times, never an address (docs/media.md).
"""

from connectors.media.clerk import Clerk, MediaSink
from connectors.media.folder import FolderShelf
from connectors.media.follower import Follower
from connectors.media.s3 import S3Shelf, Store
from connectors.media.shelf import Evidence, Shelf, ShelfAway, ShelfImpossible, Shelves

__all__ = [
    "Clerk", "Evidence", "FolderShelf", "Follower", "MediaSink", "S3Shelf", "Shelf", "ShelfAway", "ShelfImpossible", "Shelves",
    "Store",
]  # fmt: skip
