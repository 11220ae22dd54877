"""What the pages of the assets show, one module a group: tables and plots for people, made when an asset is built."""
