"""The asset checks, one module a group of assets, and one of those that look for drift."""
