"""What the tests of dsmem and of its users share. Needs pytest."""
