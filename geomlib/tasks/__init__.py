"""Tasks: a net, its loss terms, metrics and optimizer as a LightningModule."""
