"""`init`: write a Makefile that turns photographs and tags into masks, a network and a report."""
