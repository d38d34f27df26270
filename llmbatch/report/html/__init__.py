"""The page of ``llmbatch report``: numbers in, one HTML document out, without scripts or references to elsewhere."""
