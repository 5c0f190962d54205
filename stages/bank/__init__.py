"""`bank`: the features of the classes of each mask, by which `segment retrieve` recognises regions."""
