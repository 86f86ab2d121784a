"""Applications: what a trained net is used for."""
