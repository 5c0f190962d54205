"""Train segmentation networks on images and their captions."""
