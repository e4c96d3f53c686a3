"""Places for the names of a cluster: files of this host (local), or a table of this process (hosted)."""
