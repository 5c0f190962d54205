"""Data that the package does not bring, put where they are found."""
