"""Workers of the drop-in DataLoader: processes that write into shared slabs, and threads."""
