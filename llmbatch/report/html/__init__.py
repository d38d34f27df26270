"""The page of ``llmbatch report``: numbers in, one HTML document out that fetches nothing from elsewhere."""
