"""Files that are complete or absent: folders, checksums, labelled arrays, and where they were made."""
