"""Where the names of a cluster live: files of this host (local), or this process alone (hosted)."""
