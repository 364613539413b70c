"""Wire formats, pure: one file each, both directions."""
