"""Whether pretraining on synthetic volumes makes segmentation better where labels are scarce."""
