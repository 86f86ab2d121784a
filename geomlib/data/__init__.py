"""The data currency and everything that feeds it."""
